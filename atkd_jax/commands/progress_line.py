"""How far a count has come: a live line on a terminal, a plain one now and then elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atkd_jax.training.progress import CountLines


@contextlib.contextmanager
def progress_line(
    console: Console,
    title: str,
    *,
    total: int,
    seconds_between_lines: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Gives the function that is told how many are done.

    Args:
        console: Where the line goes.
        title: What is being done.
        total: How many there are.
        seconds_between_lines: Where the console is no terminal, a line is printed no more often than this; and one when
            all are done.
        clock: Gives seconds.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
        return
    report = partial(console.print, highlight=False)
    times = {"seconds_between_lines": seconds_between_lines, "clock": clock}
    yield CountLines(title, total=total, report=report, **times)
