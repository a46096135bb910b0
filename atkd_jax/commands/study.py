"""`launch.py study`: the cells of a study in processes of their own, and the tables of what came out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from atkd_jax.analysis.claims import judge_claims, require_claims
from atkd_jax.analysis.fingerprint import fingerprint
from atkd_jax.analysis.grid import Cell, expand
from atkd_jax.analysis.plots import draw_measure
from atkd_jax.analysis.results import Result, has_students, read_result, share_done
from atkd_jax.analysis.scheduling import Progress, run_cells
from atkd_jax.analysis.study_directory import RESULTS_NAME, STUDY_COPY
from atkd_jax.analysis.study_file import Study, read_study
from atkd_jax.analysis.summary import require_references, summarize
from atkd_jax.analysis.tables import as_csv, as_json, as_markdown
from atkd_jax.commands.report import keep_report
from atkd_jax.commands.run_directory import write_json, write_text
from atkd_jax.commands.study_cell import run_cell
from atkd_jax.commands.study_process import LIFELINE, CellProcess, Lock, log_of, own_processors
from atkd_jax.commands.study_room import MemoryRoom
from atkd_jax.commands.verbs import StudyOptions
from atkd_jax.errors import InputError


def run(options: StudyOptions) -> None:
    """Runs what has not finished yet, prints the tables and keeps them in the study's directory.

    Raises:
        InputError: The study is wrong, or cells failed, after the others have finished.
        SystemExit: 128 and the signal's number, where a signal ended the study early.
    """
    path = options.study
    if path is None:
        raise InputError("command line: study needs its YAML file, as `launch.py study configs/studies/methods.yaml`.")
    study, every = _cells(options, path)
    cells = _wanted(every, options.only)
    prints = _fingerprints(study, every)
    if options.cell:
        cell = _named(every, options.cell, path)
        lifeline = int(os.environ.get(LIFELINE, "-1"))
        kept = {"keep_checkpoints": study.keep_checkpoints, "keep_student": study.keep_students}
        run_cell(cell, prints[cell.key], lifeline=lifeline, **kept)
        return
    console = Console()
    done = _done(cells, prints)
    if options.dry_run:
        _print_plan(console, cells, done)
        return
    study.directory.mkdir(parents=True, exist_ok=True)
    with Lock(study.directory) as lock, _stop_signal() as stopped:
        progress = run_cells(
            cells,
            done=done,
            start=lambda cell, slot: CellProcess(cell, slot, study, words=options.words, lock=lock),
            processes=study.processes,
            has_room=MemoryRoom((done[key].peak_bytes for key in done), report=console.print),
            share_done=share_done,
            on_change=_reporter(console),
            is_stopped=lambda: bool(stopped),
        )
    results = list(_finished(every, prints).values())
    write_text(study.directory / STUDY_COPY, path.read_text(encoding="utf-8"))
    _keep(study, console, every, results, progress.failed, prints)
    if stopped:
        console.print("Stopped; the same command goes on from there.")
        raise SystemExit(128 + stopped[0])
    _report_failures(cells, progress.failed)


def _cells(options: StudyOptions, path: Path) -> tuple[Study, list[Cell]]:
    changes: dict[str, Any] = {"directory": options.directory, "processes": options.processes, "seeds": options.seeds}
    study = read_study(path)
    study = study.model_copy(update={name: value for name, value in changes.items() if value})
    if len(study.environments) not in (0, study.processes):
        raise InputError(f"command line: processes must be {len(study.environments)}, the study's environments.")
    if not study.environments:  # Else each has a device of its own.
        study = study.model_copy(update={"processes": min(study.processes, len(own_processors()))})
    cells = expand(study, path=path, overrides=options.overrides)
    require_references(study, cells, path)
    require_claims(study, cells, path)
    return study, cells


def _wanted(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these names and what they need, directly or not; all where no name is given."""
    known = list(dict.fromkeys(cell.name for cell in cells))
    for name in names:
        if name not in known:
            raise InputError(f"command line: --only names {name!r}, but the cells are {', '.join(known)}.")
    if not names:
        return list(cells)
    keys = {cell.key for cell in cells if cell.name in names}
    for cell in reversed(cells):
        keys |= {need for need in cell.needs if cell.key in keys}
    return [cell for cell in cells if cell.key in keys]


def _named(cells: Sequence[Cell], key: str, path: Path) -> Cell:
    for cell in cells:
        if cell.key == key:
            return cell
    raise InputError(f"{path}: --cell must be one of {', '.join(cell.key for cell in cells)}, but {key!r} came.")


def _fingerprints(study: Study, cells: Sequence[Cell]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cell in cells:
        found[cell.key] = fingerprint(cell, directory=study.directory, needed=found)
    return found


def _finished(cells: Sequence[Cell], prints: Mapping[str, str]) -> dict[str, Result]:
    results = {cell.key: read_result(cell, fingerprint=prints[cell.key]) for cell in cells}
    return {key: result for key, result in results.items() if result is not None}


def _done(cells: Sequence[Cell], prints: Mapping[str, str]) -> dict[str, Result]:
    """The results of the cells that need not be run: those without a student that another one starts from must be."""
    without = {cell.key for cell in cells if not has_students(cell, cell.starts)}
    return {key: result for key, result in _finished(cells, prints).items() if key not in without}


def _print_plan(console: Console, cells: Sequence[Cell], done: Mapping[str, Result]) -> None:
    for cell in cells:
        state = "done" if cell.key in done else "to run"
        needs = f", after {', '.join(cell.needs)}" if cell.needs else ""
        config = cell.config
        tokens = config.training.steps * config.training.batch_size * config.data.sequence_length
        what = f"{config.objective.name}, {config.training.steps} steps, {tokens:,} places"
        console.print(f"{cell.key}: {state}{needs} ({what})", highlight=False, soft_wrap=True)
    console.print(f"{len(cells)} cells, {len(done)} done. Nothing was started.", highlight=False)


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Gives a list in which the first Ctrl-C or SIGTERM is put."""
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _reporter(console: Console, seconds_between_lines: float = 30.0) -> Callable[[Progress], None]:
    """What prints the progress line: at every start and end of a cell, and now and then between them."""
    said: tuple[Any, float] = (None, 0.0)

    def report(progress: Progress) -> None:
        nonlocal said
        state = (len(progress.done), dict(progress.failed), set(progress.running))
        if state != said[0] or progress.seconds - said[1] >= seconds_between_lines:
            said = (state, progress.seconds)
            console.print(progress.sentence(), highlight=False, soft_wrap=True)

    return report


def _keep(
    study: Study,
    console: Console,
    cells: Sequence[Cell],
    results: Sequence[Result],
    failed: Mapping[str, str],
    prints: Mapping[str, str],
) -> None:
    summaries, verdicts = summarize(results, study), judge_claims(study, cells, results)
    table = as_markdown(summaries, failed, verdicts)
    write_text(study.directory / "results.csv", as_csv(results))
    kept = as_json(results, summaries, failed, verdicts, fingerprints=prints)
    write_json(study.directory / RESULTS_NAME, kept)
    write_text(study.directory / "results.md", table)
    if results:
        console.print(Markdown(table))
    for plot in study.plots if results else ():
        name = f"{plot.y}_by_{plot.x.rpartition('.')[2]}.png"
        try:
            draw_measure(summaries, x=plot.x, measure=plot.y, path=study.directory / name)
        except InputError as error:  # The tables are there all the same.
            console.print(f"{name} was not drawn: {error}", highlight=False, soft_wrap=True)
    console.print(f"Kept in {study.directory}/results.csv, .json and .md", highlight=False, soft_wrap=True)
    keep_report([study.directory], study.directory / "report.html", console=console)


def _report_failures(cells: Sequence[Cell], failed: Mapping[str, str]) -> None:
    if not failed:
        return
    own = [cell for cell in cells if cell.key in failed]
    logs = [f"{cell.key}: {failed[cell.key]} ({log_of(cell)})" for cell in own]
    raise InputError(f"study: {len(failed)} of {len(cells)} cells failed: {'; '.join(logs)}.")
