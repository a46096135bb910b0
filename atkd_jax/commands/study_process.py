"""The process of one cell, and the lock that keeps a second study out of the same directory."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.study_file import Study
from atkd_jax.errors import InputError

# The variable with the descriptor of the pipe by which a cell knows that its study is still there.
LIFELINE = "ATKD_JAX_STUDY_LIFELINE"


class Lock:
    """Held by a study and by the processes of its cells, which may outlive it for as long as they take to save."""

    def __init__(self, directory: Path):
        """Names the directory; entering takes the lock."""
        self._directory = directory

    def __enter__(self) -> int:
        self._file = (self._directory / ".lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(
                f"study: another study works in {self._directory}, or cells of one that was killed are still saving; "
                "wait for it, or name another --directory."
            ) from None
        return self._file.fileno()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def log_of(cell: Cell) -> Path:
    """Where a cell's output goes."""
    return cell.config.run_dir / "log.txt"


class CellProcess:
    """One cell at work in a process of its own, with its share of the processors."""

    def __init__(self, cell: Cell, slot: int, study: Study, *, words: Sequence[str], lock: int):
        """Starts it.

        Args:
            cell: The cell.
            slot: The number of the process among those that run at once.
            study: The study.
            words: Those of the study's command line.
            lock: The descriptor of the study's lock.
        """
        log = log_of(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        reading, self._lifeline = os.pipe()
        variables = study.environments[slot] if study.environments else {}
        # Cells differ in little, so that what one has compiled serves the others.
        cache = {"JAX_COMPILATION_CACHE_DIR": str((study.directory / ".compiled").absolute())}
        variables = variables | {LIFELINE: str(reading)}
        with log.open("a", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "atkd_jax.commands", "study", *words, f"--cell={cell.key}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=cache | os.environ | variables | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
                pass_fds=(reading, lock),
                # A terminal's Ctrl-C comes to the study, which passes it on once.
                start_new_session=True,
            )
        os.close(reading)
        _share_processors(self._process.pid, slot, study.processes)

    def poll(self) -> int | None:
        """Returns the exit code, None while it works."""
        return self._process.poll()

    def resident_bytes(self) -> int:
        """Returns the memory that it holds; 0 where it has ended."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return 0

    def stop(self) -> None:
        """Closes the lifeline, upon which the cell saves and ends."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def own_processors() -> list[int]:
    """Returns the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _share_processors(pid: int, slot: int, processes: int) -> None:
    """Gives a process its part of this one's processors, so that the cells do not take them from each other."""
    if processes == 1 or not hasattr(os, "sched_setaffinity"):
        return
    own = own_processors()
    share = own[slot * len(own) // processes : (slot + 1) * len(own) // processes]
    if share:
        os.sched_setaffinity(pid, share)
