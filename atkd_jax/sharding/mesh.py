"""The device mesh: three named axes over all devices of all processes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from atkd_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")


def make_mesh(*, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with axes data, fsdp and tensor; data takes the devices that the other two leave.

    Args:
      fsdp: Devices that share one copy of the parameters; batch rows are split over them as well.
      tensor: Devices that share heads, MLP width and vocabulary.
      devices: All devices of all processes if None.

    Raises:
      InputError: if the number of devices is not a multiple of `fsdp * tensor`.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % (fsdp * tensor):
        raise InputError(
            f"mesh.fsdp={fsdp} times mesh.tensor={tensor} must divide the number of devices, which is {len(devices)}"
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp, tensor), AXES)


class RowShare(NamedTuple):
    """Which rows of every global batch a process reads: part `index` of `count` equal parts.

    Where tensor parallelism spans processes, several of them have the same part; `is_first` is true on one of them.
    """

    index: int
    count: int
    is_first: bool


def row_share(mesh: Mesh, *, process_index: int | None = None) -> RowShare:
    """Returns the rows that a process's devices hold.

    Args:
      mesh: All processes' devices, as `make_mesh` arranges them.
      process_index: This process if None.

    Raises:
      InputError: if the rows do not fall into equal parts for the processes.
    """
    own = jax.process_index() if process_index is None else process_index
    owners = np.array([device.process_index for device in mesh.devices.flat]).reshape(mesh.devices.shape)
    # One line per part of the rows, with the processes that hold it.
    holders = [set(line.tolist()) for line in owners.reshape(-1, mesh.shape["tensor"])]
    parts = {
        process: tuple(number for number, there in enumerate(holders) if process in there)
        for process in set(owners.reshape(-1).tolist())
    }
    distinct = sorted(set(parts.values()))
    width = len(distinct[0])
    if distinct != [tuple(range(start, start + width)) for start in range(0, len(holders), width)]:
        raise InputError(
            f"mesh.tensor={mesh.shape['tensor']} must divide the number of devices of each process, or be a multiple "
            f"of it, so that the rows can be shared among the {len(parts)} processes; choose such a number"
        )
    return RowShare(distinct.index(parts[own]), len(distinct), own == min(p for p in parts if parts[p] == parts[own]))
