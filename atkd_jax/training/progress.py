"""How far a run or a count has come: step, loss, tokens/s, MFU, the teacher's share of the time, time left."""

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

_PLAIN_INTERVAL_SECONDS = 10.0


class ProgressLine:
    """Shows one line that changes in a terminal, and a plain line every ten seconds anywhere else."""

    def __init__(
        self, *, steps: int, start: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """Starts at `start` of `steps` steps."""
        self._console = console or Console()
        self._steps, self._start, self._clock = steps, start, clock
        self._began = self._last_plain = clock()
        self._progress = None
        if self._console.is_terminal:
            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), _Fields())
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("train", total=steps, completed=start, line="compiling")
            self._progress.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows the numbers of a step; what is missing is left out."""
        now = self._clock()
        done = max(step - self._start, 1)
        line = describe(values, seconds_left=(now - self._began) / done * (self._steps - step))
        if self._progress is not None:
            self._progress.update(self._task, completed=step, line=line)
        elif step in (self._start + 1, self._steps) or now - self._last_plain >= _PLAIN_INTERVAL_SECONDS:
            self._last_plain = now
            self._console.print(f"step {step}/{self._steps}  {line}", highlight=False)

    def note(self, text: str) -> None:
        """Prints a sentence above the line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._progress is not None:
            self._progress.stop()


def describe(values: dict[str, float], *, seconds_left: float) -> str:
    """Returns the line's text, such as `loss 3.214  1,520 tokens/s  MFU 52%  teacher 41%  left 2:05`.

    What the loop waited for is told where it is more than a hundredth of the step.
    """
    parts = [f"loss {values['loss']:.4g}"]
    if "tokens_per_second" in values:
        parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.0%}")
    if "teacher_share" in values:
        parts.append(f"teacher {values['teacher_share']:.0%}")
    for name, word in (("data_wait_seconds", "data wait"), ("checkpoint_stall_seconds", "checkpoint")):
        if values.get(name, 0.0) > 0.01 * values.get("step_seconds", math.inf):
            parts.append(f"{word} {values[name]:.2g} s")
    if values.get("skipped_steps"):
        parts.append(f"skipped {values['skipped_steps']:.0f}")
    parts.append(_left(seconds_left))
    return "  ".join(parts)


class CountLines:
    """Says in plain lines how many are done, no more often than every ten seconds, and once when all are."""

    def __init__(
        self,
        title: str,
        *,
        total: int,
        report: Callable[[str], None],
        seconds_between_lines: float = _PLAIN_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to count.

        Args:
            title: What is being done.
            total: How many there are.
            report: Is told the lines.
            seconds_between_lines: The least, but for the last line.
            clock: Gives seconds.
        """
        self._title, self._total, self._report = title, total, report
        self._seconds, self._clock = seconds_between_lines, clock
        self._last = clock()
        # What was done when the count began, or while the first was being compiled, says nothing of the rest.
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int) -> None:
        """Is told how many are done."""
        now = self._clock()
        first, began = self._first = self._first or (done, now)
        if done < self._total and now - self._last < self._seconds:
            return
        self._last = now
        line = f"{self._title}: {done:,} of {self._total:,}"
        if first < done < self._total:
            line += f", {_left((now - began) / (done - first) * (self._total - done))}"
        self._report(line)


def _left(seconds_left: float) -> str:
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"left {hours}:{minutes:02}:{seconds:02}" if hours else f"left {minutes}:{seconds:02}"


class _Fields(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["line"])
