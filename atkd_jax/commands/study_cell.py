"""One cell of a study: trained, measured, exported where another one starts from it, and its result kept."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from rich.console import Console

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.results import RESULT_NAME, has_students, read_result, result_json
from atkd_jax.commands.report import keep_report
from atkd_jax.commands.run_directory import write_json, write_text
from atkd_jax.commands.verbs import EvaluateOptions, ExportOptions, TrainOptions

_INPUTS_NAME = "inputs"


def run_cell(
    cell: Cell, fingerprint: str, *, lifeline: int = -1, keep_checkpoints: bool = True, keep_student: bool = False
) -> None:
    """Runs a cell from where it stands.

    A run directory that was begun with other inputs is put aside, as `SEED.KEY` of those; one that was put aside with
    these inputs is taken back, and where it has finished nothing is run.

    Args:
        cell: The cell.
        fingerprint: Of its inputs.
        lifeline: The descriptor of a pipe; when its other end closes, the cell saves and ends. -1 for none.
        keep_checkpoints: Whether they stay once the result is there.
        keep_student: Whether the student is exported where no other cell starts from it.

    Raises:
        SystemExit: Where a signal ended it early.
    """
    # These import jax, which a study itself has no use for.
    from atkd_jax.commands import evaluate, export, train

    if lifeline >= 0:
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    began, config = time.monotonic(), cell.config
    _begin(config.run_dir, fingerprint)
    exported = cell.starts or ((None,) if keep_student else ())
    if read_result(cell, fingerprint=fingerprint) is not None and has_students(cell, exported):
        print("It has finished with these inputs already.")
        return
    train.run(TrainOptions(settings=config, report=False))
    evaluate.run(EvaluateOptions(settings=config, after_only=True))
    # Who starts from it wants whole weights.
    merged = config.model_copy(update={"export": config.export.model_copy(update={"lora": "merged"})})
    for step in exported:
        export.run(ExportOptions(settings=merged, step=step, out=cell.student(step)))
    seconds = round(time.monotonic() - began, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    result = result_json(cell, fingerprint=fingerprint, seconds=seconds, peak_bytes=peak)
    write_json(config.run_dir / RESULT_NAME, result)
    keep_report([config.run_dir], config.run_dir / "report.html", console=Console())
    if not keep_checkpoints:
        shutil.rmtree(config.run_dir / "checkpoints", ignore_errors=True)


def _begin(run_dir: Path, fingerprint: str) -> None:
    inputs = run_dir / _INPUTS_NAME
    before = inputs.read_text(encoding="utf-8").strip() if inputs.exists() else None
    if before is not None and before != fingerprint:
        # The log of this process is being written into the directory and goes on in the old one's place.
        aside = _free(run_dir.with_name(f"{run_dir.name}.{before}"))
        run_dir.rename(aside)
        earlier = run_dir.with_name(f"{run_dir.name}.{fingerprint}")
        is_back = earlier.is_dir()
        if is_back:
            earlier.rename(run_dir)
        else:
            run_dir.mkdir()
        if (aside / "log.txt").exists():
            (aside / "log.txt").rename(run_dir / "log.txt")
        print(f"The inputs have changed: what was here is now {aside}.")
        if is_back:
            print(f"A run with these inputs was {earlier} and goes on here.")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(inputs, fingerprint + "\n")


def _free(path: Path) -> Path:
    """The path, or with the first number from 2 on behind it where something is called so already."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def _end_with(lifeline: int) -> None:
    """Waits until whoever started this process has ended or wants it to end."""
    with open(lifeline, "rb") as pipe:
        pipe.read()
    os.kill(os.getpid(), signal.SIGTERM)
