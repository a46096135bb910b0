"""Cells in parallel processes: each as soon as what it needs is there; one that fails stops none but its dependants."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from atkd_jax.analysis.grid import Cell


class Process(Protocol):
    """A cell at work."""

    def poll(self) -> int | None:
        """Returns the exit code, None while it works."""
        ...

    def stop(self) -> None:
        """Asks it to save and end."""
        ...

    def resident_bytes(self) -> int:
        """Returns the memory that it holds; 0 where it has ended."""
        ...


@dataclass
class Progress:
    """How far a study is.

    Attributes:
        total: Cells in all.
        done: Keys of those that have finished, earlier ones included.
        failed: Key -> why, for those that failed and those that need one that did.
        running: Keys of those at work.
        finished: How many have finished since the start.
        partly: Cells' worth of work that was done on those at work.
        earlier: Of the work on those at work and finished, what had been done before the start.
        seconds: Since the start.
    """

    total: int
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    finished: int = 0
    partly: float = 0.0
    earlier: float = 0.0
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """What is left takes as long as what was done took; None before anything was."""
        left = self.total - len(self.done) - len(self.failed) - self.partly
        worked = self.finished + self.partly - self.earlier
        return self.seconds / worked * max(left, 0.0) if worked > 0 else None

    def sentence(self) -> str:
        """Returns the progress line."""
        text = f"study: {len(self.done)} of {self.total} cells done"
        text += f", {len(self.failed)} failed" if self.failed else ""
        text += f", running {', '.join(sorted(self.running))}" if self.running else ""
        if self.running and self.seconds_left is not None:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            text += f", left {minutes // 60}:{minutes % 60:02}:{seconds:02}"
        return text


def run_cells(
    cells: Sequence[Cell],
    *,
    done: Mapping[str, object],
    start: Callable[[Cell, int], Process],
    processes: int,
    has_room: Callable[[Sequence[tuple[Cell, Process]]], bool] = lambda _: True,
    share_done: Callable[[Cell], float] = lambda _: 0.0,
    on_change: Callable[[Progress], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
    poll_seconds: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Runs what is not done yet, up to `processes` cells at a time.

    Args:
        cells: All of them, what is needed before what needs it.
        done: Those that have finished already, by key.
        start: Starts a cell in the process of a number from 0 on.
        processes: How many run at once, at most.
        has_room: Whether one more may run beside those at work; it is not asked where none is.
        share_done: How much of a running cell's work is done, from 0 to 1.
        on_change: Is told the progress often, and after every start and end.
        is_stopped: Whether to stop: then nothing new is started, and what runs is asked to end and waited for.
        poll_seconds: Between two looks at the processes.
        clock: Gives seconds.

    Returns:
        The progress at the end. What was stopped is neither done nor failed.
    """
    progress = Progress(len(cells), done={cell.key for cell in cells if cell.key in done})
    running: dict[int, tuple[Cell, Process]] = {}
    began, asked = clock(), False

    def begin(cell: Cell, slot: int) -> Process:
        progress.earlier += share_done(cell)
        return start(cell, slot)

    while True:
        for slot, (cell, process) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[slot]
            if code == 0:
                progress.done.add(cell.key)
                progress.finished += 1
            elif not asked:
                progress.failed[cell.key] = f"it ended with exit code {code}"
        asked = asked or is_stopped()
        if not asked:
            _start_ready(cells, progress, running, begin, processes, has_room)
        progress.running = {cell.key for cell, _ in running.values()}
        progress.seconds = clock() - began
        progress.partly = sum(share_done(cell) for cell, _ in running.values())
        on_change(progress)
        if not running:
            return progress
        if asked:
            for _, process in running.values():
                process.stop()
        time.sleep(poll_seconds)


def _start_ready(
    cells: Sequence[Cell],
    progress: Progress,
    running: dict[int, tuple[Cell, Process]],
    start: Callable[[Cell, int], Process],
    processes: int,
    has_room: Callable[[Sequence[tuple[Cell, Process]]], bool],
) -> None:
    """Starts cells while there is room, and gives those up that need a failed one."""
    at_work = {cell.key for cell, _ in running.values()}
    for cell in cells:
        if cell.key in progress.done or cell.key in progress.failed or cell.key in at_work:
            continue
        lost = next((key for key in cell.needs if key in progress.failed), None)
        if lost is not None:
            progress.failed[cell.key] = f"it needs {lost}, which failed"
            continue
        free = [slot for slot in range(processes) if slot not in running]
        if not free or not all(key in progress.done for key in cell.needs):
            continue
        if running and not has_room(list(running.values())):
            break
        running[free[0]] = cell, start(cell, free[0])
