"""The two tables, of parameters and of activations: which logical axis lies on which axes of the mesh."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from atkd_jax.sharding.mesh import row_parts

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
ACTIVATION_RULES: dict[str, tuple[str, ...]] = {
    "rows": ROWS,
    "length": ("sequence",),
    "tokens": (*ROWS, "sequence"),
    "width": (),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
}
# Over which axes the tokens of a batch are split.
TOKENS = ACTIVATION_RULES["tokens"]


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


def activation_spec(mesh: Mesh, logical_axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """Returns how an activation is split, from the names of its axes; one that the mesh does not divide stays whole.

    Raises:
      ValueError: if a logical axis is not in the table, or the number of names is not the number of dimensions.
    """
    if len(logical_axes) != len(shape) or not {*logical_axes} <= {*ACTIVATION_RULES, None}:
        raise ValueError(
            f"activation_spec: axes must be as many as the dimensions of {tuple(shape)} and among "
            f"{sorted(ACTIVATION_RULES)}, got {tuple(logical_axes)}"
        )
    axes = [ACTIVATION_RULES[name] if name else () for name in logical_axes]
    parts = [math.prod(mesh.shape[axis] for axis in each) for each in axes]
    fits = [bool(each) and size % count == 0 for each, size, count in zip(axes, shape, parts, strict=True)]
    return PartitionSpec(*[each if fit else None for each, fit in zip(axes, fits, strict=True)])


def constrain(array: jax.Array, mesh: Mesh | None, *logical_axes: str | None) -> jax.Array:
    """Returns an activation within a compiled program, told to lie where the table says; as it is on one device."""
    if mesh is None or mesh.size == 1:
        return array
    spec = activation_spec(mesh, logical_axes, array.shape)
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))


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
    axes = ACTIVATION_RULES["rows"], ACTIVATION_RULES["length"]
    return NamedSharding(mesh, PartitionSpec(*([None] * leading_axes), *axes))


def whole_row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of `[rows, ...]` in which every row is whole on each device that has it."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def rows_divisor(mesh: Mesh) -> int:
    """Returns the number of parts that the rows of a batch are split into."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows of a global batch on its devices.

    Args:
      mesh: All processes' devices.
      batch: `[rows, length]` arrays; on several processes, the rows of this one, whole also where others share them.

    Returns:
      The same names with global arrays, split over rows and length.
    """
    parts, sharding = row_parts(mesh), row_sharding(mesh)

    def place(array: np.ndarray) -> jax.Array:
        each = len(array) // len(parts)

        def own(index: Any) -> np.ndarray:
            first = parts.index((index[0].start or 0) // each) * each
            return array[(slice(first, first + each), *index[1:])]

        return jax.make_array_from_callback((each * rows_divisor(mesh), *array.shape[1:]), sharding, own)

    return {name: place(array) for name, array in batch.items()}


def own_rows(mesh: Mesh, array: jax.Array) -> np.ndarray:
    """Returns this process's rows of a global array, the inverse of `shard_batch`.

    Args:
      mesh: All processes' devices.
      array: `[rows, ...]`, as `whole_row_sharding` has it.
    """
    parts = row_parts(mesh)
    each = array.shape[0] // rows_divisor(mesh)
    found = np.empty((each * len(parts), *array.shape[1:]), array.dtype)
    for shard in array.addressable_shards:
        first = parts.index((shard.index[0].start or 0) // each) * each
        found[first : first + each] = shard.data
    return found
