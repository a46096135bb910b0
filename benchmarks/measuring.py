"""How a run is measured: in turn with the one that it is compared with, and by what the process grew meanwhile."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax

from benchmarks.process_memory import forget_peak, peak_bytes, resident_bytes

Run = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """What a run costs.

    Attributes:
        seconds: The fastest of the repeats.
        ratio: Of its seconds to those of `reference`, the median over the pairs.
        reference: What it was measured in turn with.
        temporary_gib: What XLA's program needs beside its arguments and results; None for PyTorch.
        process_gib: How far the process's resident memory rose above where it stood, results included; None where
            the operating system does not tell.
    """

    seconds: float
    ratio: float
    reference: str
    temporary_gib: float | None
    process_gib: float | None


def measure(
    run: Run, *, reference: Run, reference_name: str, repeats: int, temporary_gib: float | None = None
) -> Measurement:
    """Measures a run in pairs with its reference: other work on the machine slows both of a pair.

    Args:
        run: What is measured; it returns when its result is there.
        reference: What it is compared with.
        reference_name: Its name.
        repeats: How many pairs are counted, after one that is not.
        temporary_gib: XLA's own figure, to be kept with the others.
    """
    reference(), run()
    pairs = [(seconds_of(reference), seconds_of(run)) for _ in range(repeats)]
    ratio = statistics.median(mine / theirs for theirs, mine in pairs)
    return Measurement(min(mine for _, mine in pairs), ratio, reference_name, temporary_gib, process_growth_gib(run))


def seconds_of(run: Run) -> float:
    """Returns how long a run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def process_growth_gib(run: Run) -> float | None:
    """Returns how far resident memory rose above its level before the run, in GiB; None where Linux is not there."""
    gc.collect()
    before = resident_bytes()
    if before is None or not forget_peak():
        return None
    run()
    return (peak_bytes() - before) / 2**30


def runner(program: Callable[..., object], arrays: tuple[jax.Array, ...]) -> Run:
    """Returns a run of a compiled program that waits for its results."""
    return lambda: jax.block_until_ready(program(*arrays))


def temporary_gib(program: jax.stages.Compiled) -> float:
    """Returns what XLA's program needs beside its arguments and results, in GiB."""
    return program.memory_analysis().temp_size_in_bytes / 2**30
