"""A run's numbers: the same ones in metrics.jsonl and in TensorBoard's event files."""

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from atkd_jax.errors import InputError

# protobuf makes these classes when it is imported.
Event: Any = getattr(event_pb2, "Event")  # noqa: B009  pyright does not see them
SessionLog: Any = getattr(event_pb2, "SessionLog")  # noqa: B009
Summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009

# What stands before a part of the loss where its share of the gradient, its cosine to it, or its norm is told.
SHARE_PREFIX, COSINE_PREFIX, NORM_PREFIX = "gradient_share/", "gradient_cosine/", "gradient_norm/"

# More than a line has.
_TAIL_BYTES = 2**16


class MetricsWriter:
    """Appends a line a step to `metrics.jsonl` and the same values to `tensorboard/`.

    Opened at a step greater than 0, it first drops the lines of later steps, which a run that was killed wrote after
    its last checkpoint and will now write again.
    """

    def __init__(self, run_dir: Path, *, resumed_step: int = 0):
        """Opens both files under `run_dir`; steps after `resumed_step` are forgotten."""
        self._path = run_dir / "metrics.jsonl"
        _keep_lines_through(self._path, resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        board = run_dir / "tensorboard"
        board.mkdir(exist_ok=True)
        # Written here and not in SummaryWriter's thread, which ends when the clock jumps, and then blocks the run.
        self._board = EventsWriter(str(board / "events"), filename_suffix=f".{uuid4().hex[:8]}")
        if resumed_step:
            start = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=resumed_step + 1, wall_time=time.time(), session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one step's numbers; a number that is not finite becomes null in JSON."""
        line = {"step": step} | {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._board.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=numbers)))
        self._board.flush()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()


class NoMetrics:
    """Stands in for the writer where another process writes."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Returns the lines of a run's metrics.jsonl.

    Raises:
      InputError: if a line is no JSON; a last line that was cut short by a kill is left out instead.
    """
    path = run_dir / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number} is no JSON ({error.msg}); remove the line") from error
    return lines


def last_metrics(run_dir: Path) -> dict[str, float] | None:
    """Returns the last whole line of a run's metrics.jsonl, however long the run is; None where there is none yet."""
    with (run_dir / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        whole = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return json.loads(whole[-1]) if whole else None


def mean_shares(metrics: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Returns the mean share of each part over the lines of a run's metrics that have it and are finite.

    Example:
        >>> mean_shares([{"loss": 2.0}, {"gradient_share/easy": 0.25}, {"gradient_share/easy": 0.75}])
        {'easy': 0.5}
    """
    found: dict[str, list[float]] = {}
    for line in metrics:
        for name, value in line.items():
            if name.startswith(SHARE_PREFIX) and value is not None:
                found.setdefault(name.removeprefix(SHARE_PREFIX), []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}


def _keep_lines_through(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)
