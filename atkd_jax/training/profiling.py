"""A window of steps recorded by JAX's profiler, for xprof and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class ProfileWindow:
    """Records the steps from `start_step` on. Use it as a context: at its end what was recorded is written.

    Every process records its own devices, into a file with its host's name.
    """

    def __init__(self, directory: Path, *, start_step: int | None, steps: int):
        """Records nothing where `start_step` is None, or lies before the step that the run goes on from.

        Args:
            directory: Where the recording goes, below `plugins/profile/`.
            start_step: The first step that is recorded, from 1.
            steps: How many are.
        """
        self._directory = directory
        self._first = start_step
        self._last = None if start_step is None else start_step + steps - 1
        self._recording = False

    def __enter__(self) -> ProfileWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """Returns the context in which step `number` is dispatched, after it has begun to record if it is to."""
        if number == self._first:
            jax.profiler.start_trace(self._directory)
            self._recording = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def dispatched(self, number: int, result: Any) -> None:
        """Waits for the last step of the window and stops to record after it."""
        if self._recording and number == self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
