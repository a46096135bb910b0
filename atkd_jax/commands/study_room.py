"""Whether the machine has the memory for one more cell beside those at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import psutil

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.results import share_done
from atkd_jax.analysis.scheduling import Process


class MemoryRoom:
    """Takes every cell to need as much as the largest that was seen, those of earlier sittings included.

    Before anything is known, one cell goes ahead alone until its training has begun.
    """

    def __init__(
        self,
        peaks: Iterable[int],
        *,
        report: Callable[[str], None],
        share_done: Callable[[Cell], float] = share_done,
        available_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available,
    ):
        """Knows what cells that have finished held at most.

        Args:
            peaks: Bytes of each; 0 where that was not kept.
            report: Is told once when memory keeps a cell waiting.
            share_done: How much of a running cell's work is done, from 0 to 1.
            available_bytes: What the machine could give without swapping.
        """
        self._largest = max(peaks, default=0)
        self._report, self._share_done, self._available_bytes = report, share_done, available_bytes
        self._has_told = False

    def __call__(self, running: Sequence[tuple[Cell, Process]]) -> bool:
        """Returns whether one more cell may start beside these."""
        held = [process.resident_bytes() for _, process in running]
        if self._largest or any(self._share_done(cell) for cell, _ in running):
            self._largest = max(self._largest, *held)
        if not self._largest:
            return False
        # Those that have just begun will take what they do not hold yet.
        left = self._available_bytes() - sum(max(self._largest - own, 0) for own in held)
        if left < self._largest and not self._has_told:
            self._has_told = True
            self._report(
                f"A cell holds {self._largest / 2**30:.1f} GiB and {max(left, 0) / 2**30:.1f} GiB are left: the next "
                "one waits."
            )
        return left >= self._largest
