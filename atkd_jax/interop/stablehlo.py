"""A function of arrays as portable StableHLO: `jax.export` alone runs it, without this package or the model's code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from atkd_jax.errors import InputError

_PLATFORMS = ("cpu", "cuda", "tpu")
_LARGEST_DIFFERENCE = 1e-5


def export_stablehlo(function: Callable[[jax.Array], jax.Array], path: Path, *, rows: np.ndarray) -> float:
    """Writes a function of `[rows, ...]`, for any number of rows, and compares what was written with it.

    What is written holds the weights and runs on CPUs, CUDA and TPUs.
    `jax.export.deserialize(bytearray(path.read_bytes())).call(rows)` gives its result.

    Args:
        function: of one array; weights are what it closes over.
        path: the file.
        rows: on which both are compared.

    Returns:
        The largest difference between the two, over the larger of 1 and the largest result.

    Raises:
        InputError: if the file gives other numbers than the function, or flatbuffers is not installed.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError("Writing StableHLO needs flatbuffers: pip install 'atkd-jax[neighbours]'.")
    (count,) = export.symbolic_shape("rows")
    shape = jax.ShapeDtypeStruct((count, *rows.shape[1:]), rows.dtype)
    written = export.export(jax.jit(function), platforms=_PLATFORMS)(shape).serialize()
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(written)
    unfinished.replace(path)
    found = np.asarray(export.deserialize(bytearray(path.read_bytes())).call(rows), np.float64)
    expected = np.asarray(jax.jit(function)(rows), np.float64)
    difference = float(np.max(np.abs(found - expected)) / max(1.0, float(np.max(np.abs(expected)))))
    if not difference <= _LARGEST_DIFFERENCE:
        raise InputError(
            f"{path} must give the model's numbers, but differs from them by {difference:.1e}; it is of no use"
        )
    return difference
