"""Sides of the benchmark in processes of their own, and what pairs of their turns say."""

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Side:
    """A process that has loaded and compiled what it needs, and takes a turn when it is told to.

    Use it as a context, at whose end the process has ended.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path):
        """Starts the process and waits until it is ready.

        Args:
            name: What the table calls it.
            command: Its program and words.
            log: Where what it prints goes.

        Raises:
            RuntimeError: if it ended instead.
        """
        self.name = name
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self.about = self._answer()

    def turn(self, steps: int) -> dict[str, Any]:
        """Lets it take some steps; returns `seconds`, `peak_bytes` and what else it tells."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait()
        self._process.stdout.close()
        return code

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._end()
            last = "\n".join(self._log.read_text().splitlines()[-5:])
            raise RuntimeError(f"{self.name} ended with code {code}; {self._log} says:\n{last}")
        return json.loads(line)


@dataclass(frozen=True)
class Cost:
    """What a side's step costs.

    Attributes:
        seconds: The median over its turns.
        peak_gib: The most resident memory while it took steps.
        first_loss: Of the first batch, with the weights that all sides start from.
    """

    seconds: float
    peak_gib: float
    first_loss: float


@dataclass(frozen=True)
class Race:
    """Ours and another side in turns.

    Attributes:
        ours: Our costs.
        theirs: The other side's.
        speed_ratio: Their seconds over ours, the median over pairs of neighbouring turns.
        memory_ratio: Our peak over theirs.
        matmul_fraction: Our rate over that of the fastest product of two large matrices, measured before and after each
            of our turns: the median.
    """

    ours: Cost
    theirs: Cost
    speed_ratio: float
    memory_ratio: float
    matmul_fraction: float


def race(ours: Side, theirs: Side, *, pairs: int, step_flops: float) -> Race:
    """Takes turns of one step each, after one that is not counted.

    Other work on the machine slows both of a pair, and our steps and the products of matrices.
    """
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    fractions: list[float] = []
    before = ours.about["matmul_flops"]
    for _ in range(pairs + 1):
        turns["ours"].append(ours.turn(1))
        after = turns["ours"][-1]["matmul_flops"]
        rate = step_flops / turns["ours"][-1]["seconds"]
        fractions.append(rate / ((before + after) / 2))
        before = after
        turns["theirs"].append(theirs.turn(1))
    # Each side says the loss of a step in the answer to the next turn at the latest.
    costs = {name: _cost(found) for name, found in turns.items()}
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(turns["ours"], turns["theirs"], strict=True)]
    return Race(
        ours=costs["ours"],
        theirs=costs["theirs"],
        speed_ratio=statistics.median(ratios[1:]),
        memory_ratio=costs["ours"].peak_gib / costs["theirs"].peak_gib,
        matmul_fraction=statistics.median(fractions[1:]),
    )


def _cost(turns: list[dict[str, Any]]) -> Cost:
    counted = turns[1:]
    return Cost(
        seconds=statistics.median(turn["seconds"] for turn in counted),
        peak_gib=max(turn["peak_bytes"] for turn in counted) / 2**30,
        first_loss=next(turn["loss"] for turn in turns if "loss" in turn),
    )
