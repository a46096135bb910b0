"""Along which mapped axes arrays vary inside `jax.shard_map`, which checks that loops and derivatives keep to it.

Outside of `shard_map`, and inside of one that does not check, no axis is known and nothing here changes anything.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


def varying_axes(tree: Any) -> frozenset:
    """Returns the mapped axes along which any array of the tree is known to vary; empty outside of `shard_map`."""
    axes = frozenset()
    for leaf in jax.tree.leaves(tree):
        kind = jax.typeof(leaf)
        # The name of this attribute changed between releases of jax.
        manual = getattr(kind, "manual_axis_type", None)
        axes |= manual.varying if manual is not None else getattr(kind, "vma", frozenset())
    return axes


def marked_varying(tree: Any, like: Any) -> Any:
    """Returns the tree with each array marked as varying along every axis along which an array of `like` varies.

    The mark's derivative is the sum over devices.
    """
    axes = varying_axes(like)

    def marked(array: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - varying_axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(marked, tree) if axes else tree


def all_varying(tree: Any) -> Any:
    """Returns the tree with each array marked as varying along every axis along which one of them varies."""
    return marked_varying(tree, tree)


def zeros_for(leaf: jax.ShapeDtypeStruct, leading: int) -> jax.Array:
    """Returns zeros in the type of `leaf`, with another length of the first axis, that vary as `leaf` does."""
    return marked_varying(jnp.zeros((leading, *leaf.shape[1:]), leaf.dtype), leaf)


def whole_cotangent(cotangent: Any, axis: str | None, model: Any) -> Any:
    """Returns the cotangent of a result that all devices of `axis` share.

    Where `shard_map` does not check along which axes values vary, it gives each device a share of it.
    """
    if axis is None or axis in varying_axes(model):
        return cotangent
    return jax.lax.psum(cotangent, axis)


def gathered(tree: Any, axes: tuple[str, ...]) -> Any:
    """Returns the arrays of all devices of the axes one after the other, flat; without axes, the tree as it is."""
    if not axes:
        return tree
    return jax.tree.map(lambda array: jax.lax.all_gather(array.reshape(-1), axes, tiled=True), tree)


def own_part(tree: Any, shape: tuple[int, ...], axes: tuple[str, ...]) -> Any:
    """Returns this device's part, in its shape, of arrays that `gathered` made."""
    if not axes:
        return tree
    size = math.prod(shape)
    start = jax.lax.axis_index(axes) * size
    return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, start, size).reshape(shape), tree)


def same_everywhere(tree: Any, axes: tuple[str, ...]) -> Any:
    """Returns arrays that are equal on all devices of the axes, marked as such."""
    return jax.tree.map(lambda array: jax.lax.pmax(array, axes), tree) if axes else tree
