"""The one table: which logical axis of an array lies on which axis of the mesh."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PARAMETER_RULES: dict[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": None,
}
ROWS = ("data", "fsdp")


def parameter_sharding(mesh: Mesh, logical_axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """Returns where an array lives, from the names of its axes.

    An axis whose length the mesh axis does not divide (3 KV heads over 2 devices) stays whole on every device.

    Raises:
      ValueError: if a logical axis is not in the table, or the number of names is not the number of dimensions.
    """
    if len(logical_axes) != len(shape):
        raise ValueError(
            f"parameter_sharding: {len(logical_axes)} axis names {logical_axes} for the shape {tuple(shape)}"
        )
    spec = []
    for name, size in zip(logical_axes, shape, strict=True):
        if name is not None and name not in PARAMETER_RULES:
            raise ValueError(f"parameter_sharding: unknown logical axis {name!r}; known are {sorted(PARAMETER_RULES)}")
        axis = None if name is None else PARAMETER_RULES[name]
        spec.append(axis if axis is not None and size % mesh.shape[axis] == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def parameter_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """Returns a tree of shardings for a tree of arrays or `jax.ShapeDtypeStruct`; see `parameter_sharding`."""
    return jax.tree.map(lambda leaf, names: parameter_sharding(mesh, names, leaf.shape), shapes, logical_axes)


def spread(arrays: Any, shardings: Any) -> Any:
    """Returns a tree of arrays where a tree of shardings says.

    On several processes an array that each holds whole is cut without a transfer between hosts; it must be the same on
    all of them.
    """

    def place(array: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jax.process_count() == 1 or not array.is_fully_addressable:
            return jax.device_put(array, sharding)
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, arrays, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh, *, leading_axes: int = 0) -> NamedSharding:
    """Returns the sharding of `[..., rows, length]`, where rows follow `leading_axes` axes that are not split."""
    return NamedSharding(mesh, PartitionSpec(*([None] * leading_axes), ROWS))


def rows_divisor(mesh: Mesh) -> int:
    """Returns the number of parts that the rows of a batch are split into."""
    return int(np.prod([mesh.shape[axis] for axis in ROWS]))


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows of a global batch on its devices.

    Args:
      mesh: All processes' devices.
      batch: `[rows, length]` arrays; on several processes, the rows of this one.

    Returns:
      The same names with global arrays, split over rows.
    """
    sharding = row_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
