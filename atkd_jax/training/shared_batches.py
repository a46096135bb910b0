"""The training batches of one process among others: its own rows, and the position and numbers of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from atkd_jax.data import Counts, TrainingBatches, merge_states
from atkd_jax.sharding import RowShare, gathered


class SharedBatches(Iterator[dict[str, np.ndarray]]):
    """Hands a process's rows out; its state is that of the whole global batch, whichever processes share it."""

    def __init__(self, batches: TrainingBatches, share: RowShare, *, example_count: int, sequence_length: int):
        """Wraps one process's batches.

        Args:
            batches: Of the rows of `share`.
            share: Which rows they are.
            example_count: In the data.
            sequence_length: Tokens in a row.
        """
        self._batches, self._share = batches, share
        self._example_count, self._sequence_length = example_count, sequence_length

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._batches)

    def get_state(self) -> Any:
        """Returns the position of the global batch, on every process; every process must call it."""
        states = gathered(self._batches.get_state() if self._share.is_first else None)
        return merge_states([state for state in states if state is not None])

    def set_state(self, state: Any) -> None:
        """Goes to a position of the global batch, saved by any number of processes; see `TrainingBatches.set_state`."""
        self._batches.set_state(state)

    @property
    def numbers(self) -> dict[str, int]:
        """What went through this process's rows; nothing where another process counts the same rows."""
        return asdict(self._batches.counts if self._share.is_first else Counts())

    def metrics(self, numbers: Mapping[str, int]) -> dict[str, float]:
        """Returns the log's words for numbers that were added up over the processes."""
        counts = Counts(**{name: numbers[name] for name in asdict(Counts())})
        return {
            "data/epoch": (counts.examples + counts.dropped) / self._example_count,
            "data/examples": float(counts.examples),
            "data/truncated_examples": float(counts.truncated),
            "data/dropped_examples": float(counts.dropped),
            "data/fill": counts.fill(self._sequence_length),
        }

    def close(self) -> None:
        """Ends the thread that makes batches ahead."""
        self._batches.close()
