"""Ctrl-C and SIGTERM ask the loop to save and stop; they do not tear it apart."""

import signal
from collections.abc import Mapping
from types import FrameType


class Interruption:
    """Use it as a context around the loop, which reads `requested` between steps.

    The first signal only sets `requested`; the second has its usual effect, for whoever does not want to wait.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def asked(self) -> dict[str, int]:
        """By name, 1 for the signal that came and 0 for the others; these can be added up over processes."""
        return {number.name: int(number is self.requested) for number in self.SIGNALS}

    @classmethod
    def signal_of(cls, asked: Mapping[str, int]) -> signal.Signals | None:
        """Returns the signal that asked some process to stop; SIGTERM goes before Ctrl-C."""
        came = [number for number in cls.SIGNALS if asked.get(number.name)]
        return came[-1] if came else None

    def __enter__(self) -> "Interruption":
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]  # what signal() itself returned
        self._previous = {}
