"""What a run of a study measured, as its run directory keeps it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atkd_jax.analysis.grid import Cell
from atkd_jax.training.metrics import last_metrics, mean_shares, read_metrics

RESULT_NAME = "result.json"


class Result(NamedTuple):
    """A run that has finished.

    Attributes:
        cell: the run.
        measures: of its student, by name.
        teacher: of its teacher, likewise.
        seconds: that training and evaluation took, in the last process that worked on them.
        peak_bytes: the most memory that this process held; 0 where that was not kept.
    """

    cell: Cell
    measures: dict[str, float]
    teacher: dict[str, float]
    seconds: float
    peak_bytes: int = 0


def measured(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Returns what the files of a run say of its student and of its teacher.

    Its tokens a second are the median over the lines of its metrics after the first, in which it was compiled; the
    shares of its gradient, where they were measured, are means over training.
    """
    kept = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
    student, teacher = kept["models"]["student after"], kept["models"]["teacher"]
    metrics = read_metrics(run_dir)
    speeds = [line["tokens_per_second"] for line in metrics]
    shares = {f"gradient_share_{part.replace('/', '_')}": share for part, share in mean_shares(metrics).items()}
    return student | {"tokens_per_second": statistics.median(speeds[1:] or speeds)} | shares, teacher


def read_result(cell: Cell, *, fingerprint: str) -> Result | None:
    """Returns a run's result, if it has finished with these inputs."""
    try:
        kept = json.loads((cell.config.run_dir / RESULT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept.get("fingerprint") != fingerprint:
        return None
    measures, teacher = _numbers(kept["measures"]), _numbers(kept["teacher"])
    return Result(cell, measures, teacher, kept["seconds"], kept.get("peak_bytes", 0))


def has_students(cell: Cell, steps: Iterable[int | None]) -> bool:
    """Returns whether a run's student has been exported after each of these steps; None is the last."""
    return all((cell.student(step) / "config.json").is_file() for step in steps)


def result_json(cell: Cell, *, fingerprint: str, seconds: float, peak_bytes: int) -> dict[str, Any]:
    """Returns what `read_result` reads, of a run that has just been measured."""
    student, teacher = measured(cell.config.run_dir)
    labels = {"cell": cell.name, "seed": cell.seed, "labels": dict(cell.labels)}
    took = {"seconds": seconds, "peak_bytes": peak_bytes}
    return {**labels, "fingerprint": fingerprint, **took, "measures": student, "teacher": teacher}


def _numbers(measures: Mapping[str, float | None]) -> dict[str, float]:
    """A number that was not finite is none in JSON."""
    return {name: math.inf if value is None else value for name, value in measures.items()}


def share_done(cell: Cell) -> float:
    """Returns how much of a running cell's training is done, from 0 to 1, by its metrics."""
    try:
        last = last_metrics(cell.config.run_dir)
        return 0.0 if last is None else min(last["step"] / cell.config.training.steps, 1.0)
    except (OSError, ValueError, LookupError):
        return 0.0
