"""The one loop: next batch, one step, numbers, checkpoints, and an orderly end."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.interruption import Interruption
from atkd_jax.training.metrics import MetricsWriter
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.state import TrainState


class Batches(Protocol):
    """Batches without end, with a position that can be kept."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...
    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> Any:
        """Returns the position after the last batch that was handed out, as JSON has it."""
        ...


class LoopSettings(NamedTuple):
    """How far the loop goes and how often it does what.

    Attributes:
        steps: Optimizer steps of the whole run.
        log_every_steps: Steps between lines of metrics.
        checkpoint_every_steps: Steps between checkpoints.
        max_nonfinite_steps: Skipped steps in a row after which the run stops.
        teacher_seconds: Measured time of the teacher's pass over one batch.
    """

    steps: int
    log_every_steps: int
    checkpoint_every_steps: int
    max_nonfinite_steps: int
    teacher_seconds: float


class Outcome(NamedTuple):
    """How the loop ended: the last state, and the signal that ended it early, if one did."""

    state: TrainState
    stopped_by: signal.Signals | None


def run_loop(
    step_function: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    batches: Batches,
    *,
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    settings: LoopSettings,
    checkpoints: Checkpoints,
    metrics: MetricsWriter,
    progress: ProgressLine,
    config: dict[str, Any],
    data_counts: Callable[[], dict[str, float]],
) -> Outcome:
    """Trains from `state.step` to the last step, or until a signal asks to stop.

    A step is dispatched before the numbers of the one before are read, so that the device never waits for the host.

    Args:
        step_function: The compiled step, teacher bound.
        state: Where to start; it is donated.
        batches: Where the data stands.
        place: Puts a host batch on the devices.
        settings: How far, how often.
        checkpoints: Where the run is saved.
        metrics: Where its numbers go.
        progress: The line on the screen.
        config: The resolved config, stored in every checkpoint.
        data_counts: Gives the data pipeline's numbers up to the last batch, which are written with that step's metrics.

    Raises:
        InputError: if a batch has no counted token, or too many steps in a row were not finite.
    """
    step = int(state.step)
    reader = _MetricsReader(settings, metrics, progress)
    with Interruption() as interruption:
        while step < settings.steps and interruption.requested is None:
            batch = next(batches)
            counts = data_counts()
            state, values = step_function(state, place(batch))
            step += 1
            reader.read_previous_then_keep(step, values, counts)
            if step % settings.checkpoint_every_steps == 0 or step == settings.steps:
                reader.finish()
                checkpoints.save(state, step=step, data_state=batches.get_state(), config=config)
        reader.finish()
        if interruption.requested is not None and step > 0:
            checkpoints.save(state, step=step, data_state=batches.get_state(), config=config)
        checkpoints.wait()
        return Outcome(state, interruption.requested if step < settings.steps else None)


class _MetricsReader:
    """Reads the numbers of a step while the next one runs."""

    def __init__(self, settings: LoopSettings, metrics: MetricsWriter, progress: ProgressLine):
        self._settings, self._metrics, self._progress = settings, metrics, progress
        self._waiting: tuple[int, dict[str, jax.Array], dict[str, float]] | None = None
        self._last_seconds = time.monotonic()

    def read_previous_then_keep(self, step: int, values: dict[str, jax.Array], counts: dict[str, float]) -> None:
        self.finish()
        self._waiting = (step, values, counts)
        # Dispatching was computing already, as with one CPU in place of several devices.
        if values["loss"].is_ready():  # pyright: ignore[reportAttributeAccessIssue]  # concrete arrays have it
            self.finish()

    def finish(self) -> None:
        if self._waiting is None:
            return
        step, arrays, counts = self._waiting
        self._waiting = None
        values = {name: float(value) for name, value in jax.device_get(arrays).items()}
        now = time.monotonic()
        seconds, self._last_seconds = now - self._last_seconds, now
        _refuse_bad_step(step, values, self._settings.max_nonfinite_steps)
        values |= {
            "step_seconds": seconds,
            "tokens_per_second": values["tokens"] / seconds,
            "teacher_share": min(self._settings.teacher_seconds / seconds, 1.0),
        }
        if step % self._settings.log_every_steps == 0 or step == self._settings.steps:
            self._metrics.write(step, values | counts)
        if not math.isfinite(values["loss"]):
            self._progress.note(f"step {step}: the loss or its gradient is not finite; the step was skipped")
        self._progress.update(step, values)


def _refuse_bad_step(step: int, values: dict[str, float], max_nonfinite_steps: int) -> None:
    if values["counted_tokens"] == 0:
        raise InputError(
            f"the batch of step {step} has no counted token, so there is nothing to learn from; make "
            "data.sequence_length long enough for a prompt and its response"
        )
    if values["skipped_in_a_row"] >= max_nonfinite_steps:
        raise InputError(
            f"the loss or its gradient was not finite in {max_nonfinite_steps} steps in a row, up to step {step}; "
            "lower optimizer.learning_rate, or use float32 for training.dtype and teacher.dtype"
        )
