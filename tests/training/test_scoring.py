import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from atkd_jax.commands.scorers import STABLEHLO_NAME, evaluate_scorers, export_scorer
from atkd_jax.config import Config
from atkd_jax.sharding import make_mesh
from atkd_jax.training import scoring
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Several are shown by test_labelled_run.py to be the same, and cost more where they are one CPU's."""
    monkeypatch.setattr(scoring, "labelled_mesh", lambda config: make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_teacher_directory):
    folder = tmp_path_factory.mktemp("scores")
    words, rng = (["no idea", "partly so", "fully right"], np.random.default_rng(0))
    lines = []
    for score in rng.integers(0, 3, 80):
        lines.append({"item": "x", "response": f"{words[score]} {rng.integers(0, 9)}", "score": int(score)})
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Config.model_validate(
        {
            "run_dir": folder / "run",
            "teacher": {"model": str(tiny_teacher_directory)},
            "answers": {
                "source": str(folder / "answers.jsonl"),
                "teacher_weight": 0.5,
                "teacher_layers": 2,
                "teacher_steps": 12,
                "teacher_learning_rate": 3e-3,
                "length": 16,
                "buckets": 64,
                "width": 8,
            },
            "training": {"steps": 40, "batch_size": 16},
            "optimizer": {"learning_rate": 3e-2, "warmup_steps": 2},
        }
    )


def test_teacher_student_and_student_without_kd_are_trained_measured_and_exported(config, monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    train(config, console=console)
    with np.load(config.run_dir / scoring.PROBABILITIES_NAME) as kept:
        probabilities = kept["probabilities"]
    assert probabilities.shape == (64, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    last = read_metrics(config.run_dir)[-1]
    assert last["loss"] == pytest.approx(last["cross_entropy"] + 0.5 * last["teacher_cross_entropy"], rel=1e-5)
    assert "teacher_cross_entropy" not in read_metrics(config.run_dir / scoring.ALONE)[-1]
    found = evaluate_scorers(config, console=console)
    assert list(found) == ["teacher", "student", "student without KD"]
    assert found["student"].accuracy > 0.9
    assert found["student"].kappa > 0.8
    assert found["student"].parameters < found["teacher"].parameters / 10
    kept = json.loads((config.run_dir / "scores.json").read_text())
    assert (kept["answers"], kept["student"]["accuracy"]) == (16, found["student"].accuracy)
    # What the teacher said is kept, so that it is not even loaded again.
    monkeypatch.setattr(scoring, "load_teacher", None)
    train(config, console=console)
    monkeypatch.undo()
    assert export_scorer(config, console=console) < 1e-5
    assert (config.run_dir / STABLEHLO_NAME).stat().st_size > 0


def test_probabilities_of_other_settings_are_not_taken(config, monkeypatch):
    asked = []
    monkeypatch.setattr(scoring, "_fine_tuned", lambda *_: asked.append(1) or _Known())
    answers = scoring.answers_of(config, "train[:4]", console=Console(file=io.StringIO()))
    for _ in range(2):
        scoring._probabilities(config.model_copy(update={"run_dir": config.run_dir / "other"}), answers, Console())
    assert len(asked) == 1
    changed = config.model_copy(update={"run_dir": config.run_dir / "other", "seed": 1})
    scoring._probabilities(changed, answers, Console())
    assert len(asked) == 2


class _Known:
    def logits(self, texts):
        return np.zeros((len(texts), 3), np.float32)
