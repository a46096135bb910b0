"""The order of the examples: every epoch a permutation of its own, laid end to end."""

from __future__ import annotations

import functools
from typing import Any

import grain
import numpy as np

# Rows of one batch may stand in neighbouring epochs.
_KEPT_ORDERS = 4


class ShuffledEpochs(grain.MapDataset):
    """A Grain data set in a new order every epoch: index `n * len + i` is place i of epoch n.

    It keeps the orders of the last few epochs, 8 bytes an example each. (Grain's own shuffle keeps nothing, but needs
    milliseconds for each example of a small data set, and the epochs of neighbouring seeds are the same ones.)

    Args:
        parent: the examples in their own order.
        seed: 0 or more; the same seed gives the same orders.
    """

    def __init__(self, parent: grain.MapDataset, *, seed: int):
        super().__init__(parent)
        self._seed = seed
        self._orders = functools.lru_cache(maxsize=_KEPT_ORDERS)(self._order_of_epoch)

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, len(self))
        return self._parent[int(self.order(epoch)[place])]

    def order(self, epoch: int) -> np.ndarray:
        """Returns int64 [examples]: which example stands at each place of an epoch."""
        return self._orders(epoch)

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self))
