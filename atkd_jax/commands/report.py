"""`launch.py report RUN...`: a page of a run, or of several beside each other."""

import os
from pathlib import Path

from atkd_jax.analysis.run_files import read_runs
from atkd_jax.analysis.run_report import run_report
from atkd_jax.commands.run_directory import write_text
from atkd_jax.commands.verbs import ReportOptions
from atkd_jax.errors import InputError


def run(options: ReportOptions) -> None:
    """Writes report.html into the one run's directory, or comparison.html into the one that holds all of them."""
    runs = [path.expanduser().resolve() for path in options.runs]
    if not runs:
        raise InputError("command line: report needs at least one run directory, but none came.")
    page = run_report(read_runs(runs))
    out = options.out.expanduser() if options.out is not None else _default_out(runs)
    if out.is_dir():
        raise InputError(f"command line: --out must be a file, but {out} is a directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    print(f"Written to {out}")


def _default_out(runs: list[Path]) -> Path:
    if len(runs) == 1:
        return runs[0] / "report.html"
    return Path(os.path.commonpath([path.parent for path in runs])) / "comparison.html"
