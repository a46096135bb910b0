"""How a side of the benchmark takes turns: it works when it is told to, and says what the turn cost.

The standard library is all that it needs, because it runs in the competitors' environments too.
"""

import json
import os
import sys
import time

from benchmarks.process_memory import forget_peak, peak_bytes


class Turns:
    """The other end of `training_race.Side`, over standard input and output."""

    def __init__(self):
        # What libraries print shall not come between the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began: float | None = None
        self._found: dict[str, object] = {}

    def stop(self) -> None:
        """Ends the turn; its work must be done."""
        if self._began is not None:
            self._found = {"seconds": time.perf_counter() - self._began, "peak_bytes": peak_bytes()}
            self._began = None

    def next(self, **found: object) -> int:
        """Answers with what the last turn cost and with what else was found; returns the steps of the next turn.

        The process ends here when there is none.
        """
        self.stop()
        self._answers.write(json.dumps(self._found | found) + "\n")
        self._answers.flush()
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        forget_peak()  # so that loading and compiling are not in it
        self._began = time.perf_counter()
        return int(line)
