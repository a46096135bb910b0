"""Where a run's time goes: seconds a step, tokens a second, MFU, and what the host waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from atkd_jax.models import DecoderConfig
from atkd_jax.models.flops import distillation_flops


class StepCosts(NamedTuple):
    """What is known of a step before it runs.

    Attributes:
        teacher_seconds: Measured time of the teacher's pass over one batch.
        flops_per_token: What a token costs in the layers of both models; see `distillation_flops`.
        flops_per_counted_token: What it costs besides, in the heads, where the loss is on it.
        peak_flops_per_second: Of all devices; None leaves MFU out.
    """

    teacher_seconds: float = 0.0
    flops_per_token: float = 0.0
    flops_per_counted_token: float = 0.0
    peak_flops_per_second: float | None = None


def step_costs(
    *,
    student: DecoderConfig,
    teacher: DecoderConfig | None,
    length: int,
    teacher_seconds: float,
    peak_flops_per_second: float | None,
    runs_teacher_layers: bool = True,
) -> StepCosts:
    """Returns the costs of steps on rows of `length` tokens; the arguments are those of `distillation_flops`."""
    models: dict[str, Any] = {"student": student, "teacher": teacher, "length": length}
    models["runs_teacher_layers"] = runs_teacher_layers
    of_token = distillation_flops(**models, tokens=1, counted_tokens=0)
    of_counted = distillation_flops(**models, tokens=0, counted_tokens=1)
    return StepCosts(teacher_seconds, of_token, of_counted, peak_flops_per_second)


class Throughput:
    """Adds up what the steps since the last line of metrics took."""

    def __init__(self, costs: StepCosts, *, clock: Callable[[], float] = time.monotonic):
        """Starts the clock."""
        self._costs, self._clock = costs, clock
        self._last = clock()
        self._data_seconds = self._checkpoint_seconds = 0.0
        self._forget()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts what happens inside as time in which the loop waited for the next batch."""
        began = self._clock()
        yield
        self._data_seconds += self._clock() - began

    @contextmanager
    def writing_checkpoint(self) -> Iterator[None]:
        """Counts what happens inside as time in which a checkpoint held the loop up."""
        began = self._clock()
        yield
        self._checkpoint_seconds += self._clock() - began

    def step_ended(self, *, tokens: float, counted_tokens: float) -> dict[str, float]:
        """Returns the numbers of the steps since the last line, this one included.

        Seconds are means over these steps, but a checkpoint's are their sum.

        Args:
            tokens: Of the step, without padding.
            counted_tokens: Those of them that the loss is on.
        """
        now = self._clock()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._steps += 1
        self._tokens += tokens
        self._flops += tokens * self._costs.flops_per_token + counted_tokens * self._costs.flops_per_counted_token
        # A clock may stand still over a step that does next to nothing.
        seconds = max(self._seconds, 1e-9)
        found = {
            "step_seconds": seconds / self._steps,
            "tokens_per_second": self._tokens / seconds,
            "teacher_share": min(self._steps * self._costs.teacher_seconds / seconds, 1.0),
            "data_wait_seconds": self._data_seconds / self._steps,
            "checkpoint_stall_seconds": self._checkpoint_seconds,
        }
        if self._costs.peak_flops_per_second is not None:
            found["mfu"] = self._flops / seconds / self._costs.peak_flops_per_second
        return found

    def line_written(self) -> None:
        """Begins to add up anew."""
        self._data_seconds = self._checkpoint_seconds = 0.0
        self._forget()

    def _forget(self) -> None:
        self._seconds = self._tokens = self._flops = 0.0
        self._steps = 0
