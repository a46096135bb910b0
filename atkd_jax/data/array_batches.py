"""Endless shuffled batches of arrays that are in memory, and their position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from atkd_jax.errors import InputError


class ArrayBatches(Iterator[dict[str, np.ndarray]]):
    """Hands out `batch_size` examples at a time, of shuffled epochs laid end to end; no example is lost between two.

    Args:
        arrays: by name, each `[examples, ...]`.
        batch_size: examples in a batch.
        seed: of the order, which is another in every epoch.

    Example:
        >>> batches = ArrayBatches({"label": np.arange(3)}, batch_size=2, seed=0)
        >>> sorted(np.concatenate([next(batches)["label"] for _ in range(3)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, batch_size: int, seed: int):
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1 or not min(counts.values()):
            raise InputError(f"There must be as many of each array, and at least one example, but {counts} came.")
        self._arrays, self._batch_size, self._seed = dict(arrays), batch_size, seed
        self._count = min(counts.values())
        self._read = 0
        self._orders: dict[int, np.ndarray] = {}

    def __next__(self) -> dict[str, np.ndarray]:
        chosen = np.array([self._example(place) for place in range(self._read, self._read + self._batch_size)])
        self._read += self._batch_size
        return {name: array[chosen] for name, array in self._arrays.items()}

    def _example(self, place: int) -> int:
        epoch, number = divmod(place, self._count)
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng([self._seed, epoch]).permutation(self._count)}
        return int(self._orders[epoch][number])

    def get_state(self) -> dict[str, int]:
        """Returns the position after the last batch, as JSON has it."""
        return {"examples": self._count, "seed": self._seed, "read": self._read}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position of a run over as many examples with the same seed.

        Raises:
            InputError: it is another run's.
        """
        own = {"examples": self._count, "seed": self._seed}
        saved = {name: state.get(name) for name in own}
        if saved != own:
            raise InputError(
                f"The data position was saved with {saved} and the data now has {own}: set it as it was, or start anew "
                "in another run_dir."
            )
        self._read = int(state["read"])

    @property
    def numbers(self) -> dict[str, int]:
        """How many examples were handed out."""
        return {"examples": self._read}

    def metrics(self, numbers: Mapping[str, int]) -> dict[str, float]:
        """Returns the log's words for these numbers."""
        return {"data/epoch": numbers["examples"] / self._count, "data/examples": float(numbers["examples"])}

    def close(self) -> None:
        """Does nothing: there is no thread."""
