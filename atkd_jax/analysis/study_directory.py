"""What a study left in its directory, for a report of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atkd_jax.analysis.claims import Verdict
from atkd_jax.analysis.paired import Comparison, Spread
from atkd_jax.analysis.run_files import RunFiles, read_csv, read_runs
from atkd_jax.analysis.summary import Summary
from atkd_jax.errors import InputError

RESULTS_NAME = "results.json"
STUDY_COPY = "study.yaml"


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        key: NAME/SEED.
        is_prepared: Whether it is one that others start from.
        needs: Keys of the runs that it starts from.
        inputs: Their fingerprint; empty where an older version of this package wrote the results.
        measures: Of its student.
        seconds: That it took.
        files: Its directory's; None where that is not there any more.
    """

    key: str
    is_prepared: bool
    needs: tuple[str, ...]
    inputs: str
    measures: dict[str, float | None]
    seconds: float
    files: RunFiles | None


@dataclass(frozen=True)
class StudyDirectory:
    """A study's files, read.

    Attributes:
        name: Of its directory.
        text: Of its YAML file.
        summaries: Its cells over their seeds.
        verdicts: On its claims.
        runs: Those that have finished.
        failed: Key -> why, of the last time that it was run.
        pictures: PNG files by name.
        uncertainty: The lines of uncertainty.csv.
        landscape: What `landscape` kept.
    """

    name: str
    text: str
    summaries: list[Summary]
    verdicts: list[Verdict]
    runs: list[StudyRun]
    failed: dict[str, str]
    pictures: dict[str, bytes]
    uncertainty: list[list[str]]
    landscape: dict[str, Any]


def is_study_directory(directory: Path) -> bool:
    """Returns whether `study` wrote its results there."""
    return (directory / RESULTS_NAME).is_file()


def read_study_directory(directory: Path) -> StudyDirectory:
    """Returns the study's files.

    Raises:
        InputError: Its results cannot be read.
    """
    path = directory / RESULTS_NAME
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        summaries, runs = [_summary(each) for each in kept["summary"]], [_run(directory, each) for each in kept["runs"]]
        verdicts = [_verdict(each) for each in kept.get("claims", [])]
        failed = dict(kept["failed"])
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"report: {path} is not what study wrote ({error}); run the study again.") from error
    copy, landscape = directory / STUDY_COPY, directory / "landscape.json"
    return StudyDirectory(
        name=directory.name,
        text=copy.read_text(encoding="utf-8") if copy.is_file() else "",
        summaries=summaries,
        verdicts=verdicts,
        runs=runs,
        failed=failed,
        pictures={each.name: each.read_bytes() for each in sorted(directory.glob("*.png"))},
        uncertainty=read_csv(directory / "uncertainty.csv"),
        landscape=json.loads(landscape.read_text(encoding="utf-8")) if landscape.is_file() else {},
    )


def _summary(kept: dict[str, Any]) -> Summary:
    spreads = {
        name: Spread(each["n"], _number(each["mean"]), each["deviation"]) for name, each in kept["spreads"].items()
    }
    comparisons = {name: _comparison(each) for name, each in kept["comparisons"].items()}
    return Summary(kept["name"], kept["labels"], kept["is_prepared"], spreads, kept["reference"], comparisons)


def _comparison(kept: dict[str, Any]) -> Comparison:
    return Comparison(kept["n"], _number(kept["mean_difference"]), kept["t"], kept["p_value"])


def _verdict(kept: dict[str, Any]) -> Verdict:
    found = kept.pop("comparison")
    return Verdict(comparison=None if found is None else _comparison(found), **kept)


def _run(directory: Path, kept: dict[str, Any]) -> StudyRun:
    key = f"{kept['name']}/{kept['seed']}"
    return StudyRun(
        key=key,
        is_prepared=kept.get("prepared", False),
        needs=tuple(kept.get("needs", ())),
        inputs=kept.get("inputs") or "",
        measures=kept["measures"],
        seconds=kept["seconds"],
        files=_files(directory / key, key),
    )


def _files(run_dir: Path, key: str) -> RunFiles | None:
    try:
        return read_runs([run_dir], names=[key])[0]
    except InputError:  # A study's results outlive the directories of its runs.
        return None


def _number(value: float | None) -> float:
    """A number that was not finite is none in JSON."""
    return math.nan if value is None else value
