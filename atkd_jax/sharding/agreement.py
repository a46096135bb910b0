"""What the processes of a run tell each other: values once in a while, and numbers at every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Numbers are summed as parts of so many bits, so that int32 holds their sum over 2,048 processes.
_PART_BITS = 20
_PARTS = 3


def gathered(value: Any) -> list[Any]:
    """Returns every process's value, in the order of the processes; every process must call it.

    Args:
        value: As JSON has it.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(data.size, np.int32)).reshape(-1)
    # Few sizes, since each is a program of its own.
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


class SumOverProcesses:
    """Adds whole numbers up over the processes, once a step, without waiting for the step."""

    def __init__(self, mesh: Mesh):
        """Sums over the processes that the mesh's devices belong to."""
        self._mesh = mesh
        self._several = len({device.process_index for device in mesh.devices.flat}) > 1

    def start(self, numbers: Mapping[str, int]) -> PendingSum:
        """Returns the sum on its way; every process must call it with the same names.

        Args:
            numbers: From 0 up to 2^60.
        """
        if not self._several:
            return PendingSum(tuple(numbers), np.array([_parts(number) for number in numbers.values()]))
        rows = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        own = jax.process_index()
        first = min(device.id for device in self._mesh.devices.flat if device.process_index == own)
        parts = np.array([_parts(number) for number in numbers.values()], np.int32)
        shape = (self._mesh.size, *parts.shape)
        arrays = [
            jax.device_put(parts[None] * (device.id == first), device)
            for device in self._mesh.devices.flat
            if device.process_index == own
        ]
        everyone = jax.make_array_from_single_device_arrays(shape, rows, arrays)
        return PendingSum(tuple(numbers), _summed(everyone, NamedSharding(self._mesh, PartitionSpec())))


class PendingSum:
    """Numbers that are being added up."""

    def __init__(self, names: tuple[str, ...], parts: Any):
        """Holds `[numbers, parts]`, on the devices or here."""
        self._names, self._parts = names, parts

    def read(self) -> dict[str, int]:
        """Waits for the sum and returns it, the same on every process."""
        parts = np.asarray(self._parts).tolist()
        return {
            name: sum(part << (_PART_BITS * place) for place, part in enumerate(own))
            for name, own in zip(self._names, parts, strict=True)
        }


def _parts(number: int) -> list[int]:
    return [(number >> (_PART_BITS * place)) & ((1 << _PART_BITS) - 1) for place in range(_PARTS)]


@partial(jax.jit, static_argnums=1)
def _summed(everyone: jax.Array, where: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.sum(everyone, axis=0, dtype=jnp.int32), where)
