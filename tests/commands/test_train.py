import json
import signal
from pathlib import Path

import pytest
from forked_runs import lines_of, wait_until

from atkd_jax.commands.main import main
from atkd_jax.training.metrics import read_metrics


@pytest.fixture
def words(tmp_path, tiny_teacher_directory):
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"def add(x):\n    return x + {a}\n"} for a in range(40)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        "train",
        f"--run_dir={tmp_path / 'run'}",
        f"--teacher.model={tiny_teacher_directory}",
        "--student.layers=2",
        f"--data.source={pairs}",
        "--data.sequence_length=64",
        "--training.batch_size=8",
    ]


def test_a_run_leaves_its_facts_metrics_and_checkpoint(words, tmp_path, capsys):
    assert main([*words, "--training.steps=2"]) == 0
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "report.html"}
    assert "loss by step" in (run / "report.html").read_text()
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert (run / "checkpoints" / "2").is_dir()
    assert "step 2/2" in capsys.readouterr().out


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_goes_on(launcher, words, tmp_path):
    words = [*words, "--training.steps=60"]
    metrics = tmp_path / "run"
    # A step that takes a while, as on a real machine, so that the signal finds the run before its end.
    slow = "import time; from atkd_jax.data import TrainingBatches as B; n = B.__next__\n"
    slow += "B.__next__ = lambda self: (time.sleep(0.2), n(self))[1]"
    run = launcher.start(words, before=slow)
    wait_until(lambda: lines_of(metrics) >= 2, [run])
    run.signal(signal.SIGINT)
    launcher.finish([run], expected=130)
    assert "Traceback" not in run.output
    step = len(read_metrics(metrics))
    assert f"Stopped by SIGINT after step {step} of 60" in run.output
    assert "The same command goes on from there." in run.output
    again = launcher.start(words)
    launcher.finish([again])
    assert f"Going on from step {step}" in again.output
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, 61))


def test_a_dry_run_writes_nothing(words, tmp_path, capsys):
    assert main([*words, "--dry-run"]) == 0
    assert "Nothing was started" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_refused_input_leaves_the_run_as_it_was(words, tmp_path, capsys):
    assert main([*words, "--training.steps=1", "--no_report"]) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert main([*words, "--training.steps=1", "--objective.easy_weight=0.9"]) == 2
    assert "objective.easy_weight=0.2 then and 0.9 now" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "response": "b"}\nnonsense\n')
    assert main([*words, "--training.steps=1", f"--run_dir={tmp_path / 'new'}"]) == 2
    assert "pairs.jsonl line 2" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shrunk", "said"),
    [
        ("lora", ["--student.layers=2", "--student.lora.rank=2"], None),
        ("quantized_teacher", ["--student.layers=2"], "The teacher is stored in int8"),
        (
            "width_pruned",
            ["--student.layers=2", "--student.mlp_width=24", "--student.kv_heads=1", "--student.calibration_batches=2"],
            "the student keeps 2 of 4 layers",
        ),
    ],
)
def test_shipped_configs_of_students_and_teachers_train(name, shrunk, said, words, tmp_path, capsys):
    """Each as it is, but for the sizes of the models and of the data."""
    config = str(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    own = [word for word in words if not word.startswith("--student.layers")]
    assert main([*own, "--config", config, *shrunk, "--training.steps=3", "--optimizer.warmup_steps=0"]) == 0
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert said is None or said in " ".join(capsys.readouterr().out.split())
