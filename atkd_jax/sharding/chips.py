"""TPUs that are not here: what a chip can do, and topologies of chips for the compiler to compile for."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from atkd_jax.errors import InputError

_GIB = 2.0**30


class Chip(NamedTuple):
    """What one chip of a kind can do.

    Attributes:
        kind: as a topology's name begins.
        cores: tensor cores on a chip, which work as one.
        hbm_bytes: what the compiler lets a program use of its memory, by its own messages.
        flops_per_second: dense bfloat16, from the data sheet.
        hbm_bytes_per_second: from the data sheet.
        link_bytes_per_second: over one link to a neighbour, one way.
        clock_hz: the data sheet's operations per second divided by those of the matrix units in a cycle.
        matrix_side: rows and columns of a matrix unit.
        wrapped_extents: along an axis of so many chips, or a multiple, the last is linked to the first.
    """

    kind: str
    cores: int
    hbm_bytes: float
    flops_per_second: float
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    clock_hz: float
    matrix_side: int
    wrapped_extents: int


CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("v5e", 1, 15.75 * _GIB, 197e12, 819e9, 45e9, 197e12 / (2 * 4 * 128**2), 128, 16),
        Chip("v5p", 2, 95.74 * _GIB, 459e12, 2765e9, 90e9, 459e12 / (2 * 8 * 128**2), 128, 4),
        Chip("v6e", 1, 31.25 * _GIB, 918e12, 1640e9, 90e9, 918e12 / (2 * 4 * 256**2), 256, 16),
    )
}


def parse_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns the chip and the extents of a topology such as `v5p:4x4x8`.

    Raises:
        InputError: where the name is none.
    """
    kind, _, extents = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", extents):
        raise InputError(
            f"topology must be a kind of TPU among {', '.join(CHIPS)}, a colon and how many chips it has along each "
            f"axis, as in v5p:4x4x8 or v5e:4x4, got {name!r}; correct it"
        )
    return CHIPS[kind], tuple(int(size) for size in extents.split("x"))


def topology_devices(name: str) -> list[Any]:
    """Returns the devices of a topology, to be arranged into a mesh and compiled for, without a TPU.

    Raises:
        InputError: where the compiler is not installed, or has no such topology.
    """
    chip, extents = parse_topology(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "plan compiles with the TPU's own compiler, which is not installed here; install it with "
            "`pip install 'atkd-jax[tpu-plan]'` (Linux on x86-64, about 700 MB on disk; no TPU is needed)"
        )
    # What libtpu would otherwise ask the metadata server of a TPU machine for.
    cores = chip.cores
    for size in extents:
        cores *= size
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{chip.kind}-{cores}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise InputError(
            f"topology {name}: the TPU's compiler does not know it ({_first_line(error)}); choose another"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
