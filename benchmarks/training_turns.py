"""How a side of the benchmark takes turns: it works when it is told to, and says what the turn cost.

The standard library is all that it needs, because it runs in the competitors' environments too.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path


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
            self._found = {"seconds": time.perf_counter() - self._began, "peak_bytes": _peak_bytes()}
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
        _forget_peak()
        self._began = time.perf_counter()
        return int(line)


def _forget_peak() -> None:
    """Lets Linux count the peak of resident memory anew, so that loading and compiling are not in it."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
