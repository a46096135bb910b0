"""What `launch.py evaluate` and `export` do with a run of scorers of short answers."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from atkd_jax.commands.run_directory import write_json
from atkd_jax.config import Config
from atkd_jax.evaluation.score_metrics import ScoreMetrics, median_milliseconds, score_metrics, scores_table
from atkd_jax.interop.stablehlo import export_stablehlo
from atkd_jax.training.reading import require_checkpoint
from atkd_jax.training.scoring import Scorer, answers_of, trained_scorers

STABLEHLO_NAME = "student.stablehlo"


def evaluate_scorers(config: Config, *, console: Console) -> dict[str, ScoreMetrics]:
    """Measures teacher, student and student without KD on the test split; prints them and keeps `scores.json`."""
    scorers = _scorers(config, console)
    answers = answers_of(config, config.answers.test_split, console=console)
    found = {}
    for name, scorer in scorers.items():
        found[name] = score_metrics(
            scores=answers.scores,
            guesses=scorer.logits(answers.texts).argmax(-1),
            parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(scorer.model, nnx.Param))),
            milliseconds=median_milliseconds(partial(_one, scorer, answers.texts[0])),
        )
    console.print(scores_table(found, title=f"{config.answers.source}, {config.answers.test_split}"))
    facts = {"source": config.answers.source, "split": config.answers.test_split, "answers": len(answers.texts)}
    path = config.run_dir / "scores.json"
    write_json(path, facts | {name: each._asdict() for name, each in found.items()})
    console.print(f"Kept in {path}", highlight=False, soft_wrap=True)
    return found


def export_scorer(config: Config, *, console: Console) -> float:
    """Writes the student as StableHLO and returns how far the file's numbers are from the model's."""
    student = _scorers(config, console)["student"]
    texts = answers_of(config, config.answers.test_split, console=console).texts[:64]
    path = config.run_dir / STABLEHLO_NAME
    difference = export_stablehlo(student.model, path, rows=student.encode(texts)[0])
    console.print(
        f"{path}: {path.stat().st_size:,} bytes; on {len(texts)} answers it differs from the model by {difference:.1e}",
        highlight=False,
        soft_wrap=True,
    )
    return difference


def _scorers(config: Config, console: Console) -> dict[str, Scorer]:
    require_checkpoint(config.run_dir / "checkpoints")
    return trained_scorers(config, console=console)


def _one(scorer: Scorer, text: str) -> np.ndarray:
    return scorer.logits([text])
