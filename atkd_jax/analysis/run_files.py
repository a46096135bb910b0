"""What stands in a run directory, for a report of it; every file may be missing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atkd_jax.errors import InputError
from atkd_jax.training.metrics import read_metrics

_FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "evaluation.json",
    "judge.json",
    "harness.json",
    "landscape.json",
    "uncertainty.csv",
    "scores.json",
    "accuracy.json",
)


@dataclass(frozen=True)
class RunFiles:
    """A run's files, read.

    Attributes:
        name: What the report calls it.
        config: The resolved config's values by dotted name.
        config_text: The config as it is written.
        environment: What it ran on.
        metrics: A dict per step.
        evaluation: What `evaluate` kept.
        judge: What the judge's scores came to.
        harness: What the harness's tasks came to.
        landscape: The loss around students.
        landscape_picture: A PNG file of it.
        uncertainty: The lines of uncertainty.csv.
        uncertainty_picture: A PNG file of it.
        scores: Of scorers of answers, what `evaluate` kept.
        accuracy: Of a student of images, what `train` kept.
    """

    name: str
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    metrics: list[dict[str, float]]
    evaluation: dict[str, Any]
    judge: dict[str, Any]
    harness: dict[str, Any]
    landscape: dict[str, Any]
    landscape_picture: bytes | None
    uncertainty: list[list[str]]
    uncertainty_picture: bytes | None
    scores: dict[str, Any]
    accuracy: dict[str, Any]


def read_runs(run_dirs: list[Path], *, names: list[str] | None = None) -> list[RunFiles]:
    """Returns the files of each run, named as given, or by as much of its path as tells it from the others.

    Raises:
        InputError: A directory is not there, holds none of a run's files, is named twice, or a file cannot be read.
    """
    resolved = [run_dir.expanduser().resolve() for run_dir in run_dirs]
    if len(set(resolved)) < len(resolved):
        raise InputError("report: each run must be named once; leave the second mention out.")
    return [_read_run(path, name) for path, name in zip(resolved, names or _names(resolved), strict=True)]


def read_csv(path: Path) -> list[list[str]]:
    """Returns the lines of a CSV file; none where it is not there."""
    return list(csv.reader(io.StringIO(_text(path), newline="")))


def points_of(run: RunFiles, name: str) -> tuple[list[float], list[float | None]]:
    """Returns the steps whose lines have a metric, and its values there; what was not finite is None."""
    lines = [line for line in run.metrics if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def _names(paths: list[Path]) -> list[str]:
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read_run(run_dir: Path, name: str) -> RunFiles:
    if not any((run_dir / file).is_file() for file in _FILES):
        what = "holds none of " + ", ".join(_FILES) if run_dir.is_dir() else "does not exist"
        raise InputError(f"report: {run_dir} must be a run directory, but it {what}; name one that train made.")
    config_text = _text(run_dir / "config.yaml")
    try:
        config = yaml.safe_load(config_text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"report: {run_dir / 'config.yaml'} is no YAML ({' '.join(str(error).split())}).") from error
    return RunFiles(
        name=name,
        config=_dotted(config),
        config_text=config_text,
        environment=_json(run_dir / "environment.json"),
        metrics=read_metrics(run_dir) if (run_dir / "metrics.jsonl").is_file() else [],
        evaluation=_json(run_dir / "evaluation.json"),
        judge=_json(run_dir / "judge.json"),
        harness=_json(run_dir / "harness.json"),
        landscape=_json(run_dir / "landscape.json"),
        landscape_picture=_bytes(run_dir / "landscape.png"),
        uncertainty=read_csv(run_dir / "uncertainty.csv"),
        uncertainty_picture=_bytes(run_dir / "uncertainty.png"),
        scores=_json(run_dir / "scores.json"),
        accuracy=_json(run_dir / "accuracy.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        content = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise InputError(f"report: {path} is no JSON ({error}); the verb that wrote it makes it anew.") from error
    return content if isinstance(content, dict) else {}


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
