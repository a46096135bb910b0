"""The device mesh: three named axes over all devices of all processes."""

from collections.abc import Sequence
from typing import Any

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
