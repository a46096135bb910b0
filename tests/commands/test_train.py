import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atkd_jax.commands.main import main
from atkd_jax.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent.parent


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
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert (run / "checkpoints" / "2").is_dir()
    assert "step 2/2" in capsys.readouterr().out


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_goes_on(words, tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--training.steps=400"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    step = len(read_metrics(tmp_path / "run"))
    assert f"Stopped by SIGINT after step {step} of 400" in out
    assert "The same command goes on from there." in out
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert f"Going on from step {step}" in done.stdout
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 401))


def test_a_dry_run_writes_nothing(words, tmp_path, capsys):
    assert main([*words, "--dry-run"]) == 0
    assert "Nothing was started" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_refused_input_leaves_the_run_as_it_was(words, tmp_path, capsys):
    assert main([*words, "--training.steps=1"]) == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert main([*words, "--training.steps=1", "--objective.easy_weight=0.9"]) == 2
    assert "objective.easy_weight=0.2 then and 0.9 now" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "response": "b"}\nnonsense\n')
    assert main([*words, "--training.steps=1", f"--run_dir={tmp_path / 'new'}"]) == 2
    assert "pairs.jsonl line 2" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
