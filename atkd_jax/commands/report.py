"""`launch.py report RUN...`: a page of a run, of several beside each other, or of a study."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from atkd_jax.analysis.run_files import read_runs
from atkd_jax.analysis.run_report import run_report
from atkd_jax.analysis.study_directory import is_study_directory, read_study_directory
from atkd_jax.analysis.study_report import study_report
from atkd_jax.commands.run_directory import write_text
from atkd_jax.commands.verbs import ReportOptions
from atkd_jax.errors import InputError


def run(options: ReportOptions) -> None:
    """Writes report.html into the one run's or study's directory, or comparison.html into the one that holds all."""
    runs = [path.expanduser().resolve() for path in options.runs]
    if not runs:
        raise InputError("command line: report needs at least one run directory, but none came.")
    out = options.out.expanduser() if options.out is not None else _default_out(runs)
    if out.is_dir():
        raise InputError(f"command line: --out must be a file, but {out} is a directory.")
    page = _page(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    print(f"Written to {out}")


def keep_report(directories: Sequence[Path], out: Path, *, console: Console) -> None:
    """Writes the page of what has just ended; where it cannot be drawn, a line says why, and nothing else is lost.

    Args:
        directories: As in `run`.
        out: The page.
        console: Where the line goes.
    """
    try:
        write_text(out, _page([path.expanduser().resolve() for path in directories]))
    except InputError as error:
        console.print(f"{out} was not written: {error}", highlight=False, soft_wrap=True)
        return
    console.print(f"The report is {out}", highlight=False, soft_wrap=True)


def refresh_report(directory: Path, *, console: Console) -> None:
    """Writes the report.html of a run or a study anew where there is one, which lacks what was measured since.

    Args:
        directory: Of the run or the study.
        console: Where the line goes.
    """
    page = directory / "report.html"
    if page.is_file():
        keep_report([directory], page, console=console)


def _page(directories: list[Path]) -> str:
    studies = [path for path in directories if is_study_directory(path)]
    if not studies:
        return run_report(read_runs(directories))
    if len(directories) > 1:
        raise InputError(
            f"report: {studies[0]} is a study's directory, and a study has a page of its own; name it alone."
        )
    return study_report(read_study_directory(studies[0]))


def _default_out(runs: list[Path]) -> Path:
    if len(runs) == 1:
        return runs[0] / "report.html"
    return Path(os.path.commonpath([path.parent for path in runs])) / "comparison.html"
