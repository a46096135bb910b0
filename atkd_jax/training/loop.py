"""The one loop: next batch, one step, numbers, checkpoints, and an orderly end."""

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.sharding import PendingSum
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.interruption import Interruption
from atkd_jax.training.metrics import SHARE_PREFIX, MetricsWriter, NoMetrics
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.state import TrainState
from atkd_jax.training.throughput import StepCosts, Throughput
from atkd_jax.training.validation import VALIDATION_NAME


class Batches(Protocol):
    """Batches without end, with a position that can be kept."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...
    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> Any:
        """Returns the position after the last batch that was handed out, as JSON has it, over all processes."""
        ...

    @property
    def numbers(self) -> Mapping[str, int]:
        """What went through this process's rows so far."""
        ...

    def metrics(self, numbers: Mapping[str, int]) -> dict[str, float]:
        """Returns what the log says of those numbers, added up over all processes."""
        ...


class LoopSettings(NamedTuple):
    """How far the loop goes and how often it does what.

    Attributes:
        steps: Optimizer steps of the whole run.
        log_every_steps: Steps between lines of metrics.
        checkpoint_every_steps: Steps between checkpoints.
        max_nonfinite_steps: Skipped steps in a row after which the run stops.
        costs: What is known of a step before it runs.
    """

    steps: int
    log_every_steps: int
    checkpoint_every_steps: int
    max_nonfinite_steps: int
    costs: StepCosts


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
    add_up: Callable[[Mapping[str, int]], PendingSum],
    settings: LoopSettings,
    checkpoints: Checkpoints,
    metrics: MetricsWriter | NoMetrics,
    progress: ProgressLine,
    profile: ProfileWindow,
    config: dict[str, Any],
) -> Outcome:
    """Trains from `state.step` to the last step, or until a signal asks to stop.

    A step is dispatched before the numbers of the one before are read, so that the device never waits for the host.
    A signal to any process stops all of them after the same step, the one after the step that it found at most.

    Args:
        step_function: The compiled step, teacher bound.
        state: Where to start; it is donated.
        batches: Where the data stands.
        place: Puts a host batch on the devices.
        add_up: Starts to add numbers up over the processes, see `SumOverProcesses.start`.
        settings: How far, how often.
        checkpoints: Where the run is saved.
        metrics: Where its numbers go.
        progress: The line on the screen.
        profile: Which steps the profiler records.
        config: The resolved config, stored in every checkpoint.

    Raises:
        InputError: if a batch has no counted token, or too many steps in a row were not finite.
    """
    step = int(state.step)
    throughput = Throughput(settings.costs)
    reader = _MetricsReader(settings, metrics, progress, throughput)
    numbers = None

    def save() -> None:
        with throughput.writing_checkpoint():
            checkpoints.save(state, step=step, data_state=batches.get_state(), config=config)

    with Interruption() as interruption, profile:
        while step < settings.steps and not any(_asked(interruption, numbers).values()):
            with throughput.waiting_for_data():
                batch = next(batches)
            numbers = add_up({**batches.numbers, **interruption.asked})
            step += 1
            with profile.step(step):
                state, values = step_function(state, place(batch))
            profile.dispatched(step, values)
            reader.read_previous_then_keep(step, values, numbers, batches.metrics)
            if step % settings.checkpoint_every_steps == 0 or step == settings.steps:
                reader.finish()
                save()
        reader.finish()
        stopped_by = interruption.signal_of(_asked(interruption, numbers)) if step < settings.steps else None
        if stopped_by is not None and step > 0:
            save()
        checkpoints.wait()
        return Outcome(state, stopped_by)


def _asked(interruption: Interruption, numbers: PendingSum | None) -> Mapping[str, int]:
    """Which signals came; on several processes, as of the last step that they all know of."""
    if jax.process_count() == 1:
        return interruption.asked
    known = {} if numbers is None else numbers.read()
    return {name: known.get(name, 0) for name in interruption.asked}


class _Waiting(NamedTuple):
    """A step whose numbers were not read yet."""

    step: int
    values: dict[str, jax.Array]
    numbers: PendingSum
    data_metrics: Callable[[Mapping[str, int]], dict[str, float]]


class _MetricsReader:
    """Reads the numbers of a step while the next one runs."""

    def __init__(
        self,
        settings: LoopSettings,
        metrics: MetricsWriter | NoMetrics,
        progress: ProgressLine,
        throughput: Throughput,
    ):
        self._settings, self._metrics, self._progress, self._throughput = settings, metrics, progress, throughput
        self._waiting: _Waiting | None = None

    def read_previous_then_keep(
        self,
        step: int,
        values: dict[str, jax.Array],
        numbers: PendingSum,
        data_metrics: Callable[[Mapping[str, int]], dict[str, float]],
    ) -> None:
        self.finish()
        self._waiting = _Waiting(step, values, numbers, data_metrics)
        # Dispatching was computing already, as with one CPU in place of several devices.
        if values["loss"].is_ready():  # pyright: ignore[reportAttributeAccessIssue]  # concrete arrays have it
            self.finish()

    def finish(self) -> None:
        if self._waiting is None:
            return
        step, arrays, numbers, data_metrics = self._waiting
        self._waiting = None
        values = {name: float(value) for name, value in jax.device_get(arrays).items()}
        _refuse_bad_step(step, values, self._settings.max_nonfinite_steps)
        values |= self._throughput.step_ended(tokens=values["tokens"], counted_tokens=values["counted_tokens"])
        is_due = step % self._settings.log_every_steps == 0 or step == self._settings.steps
        # What is measured now and then stands in a line of its step, whatever the lines' interval is.
        is_measured = VALIDATION_NAME in values or any(name.startswith(SHARE_PREFIX) for name in values)
        if is_due or is_measured:
            self._metrics.write(step, values | data_metrics(numbers.read()))
            self._throughput.line_written()
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
