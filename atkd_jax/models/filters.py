"""Random directions among a decoder's parameters, scaled filter by filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from atkd_jax.models.logical_axes import axes_of, parameter_path

_STACKS = ("layers", "experts")


def filter_axes(path: str) -> tuple[int, ...] | None:
    """Returns over which axes of a parameter a filter goes; None where it has none.

    A filter is what gives one output: all that a unit, or a head's channel, reads of its input; the row of a word in
    the embedding, and its column in the head. Norms and biases have none.

    Args:
        path: The parameter's name, such as `layers.mlp.up.kernel`.

    Example:
        >>> filter_axes("layers.mlp.up.kernel"), filter_axes("embedding"), filter_axes("final_norm.scale")
        ((1,), (1,), None)

    Raises:
        ValueError: where a decoder has no such parameter.
    """
    axes = axes_of(path)
    if path.endswith((".scale", ".bias")):
        return None
    if path in ("embedding", "position_embedding"):
        return (1,)
    first = sum(name in _STACKS for name in axes)
    return (first, first + 1) if axes[first] == "heads" else (first,)


def filter_norms(params: Any) -> Any:
    """Returns the norm of every filter, float32, with axes of 1 in place of what it goes over; 0 where there is none.

    Args:
        params: A decoder's parameters, as `nnx.split` returns them.
    """

    def norms(key_path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        axes = filter_axes(parameter_path(key_path))
        values = leaf.astype(jnp.float32)
        if axes is None:
            return jnp.zeros_like(values)
        return jnp.sqrt(jnp.sum(values * values, axis=axes, keepdims=True))

    return jax.tree_util.tree_map_with_path(norms, params)


def filter_normalized_direction(params: Any, key: jax.Array) -> Any:
    """Returns a random direction whose filters have the norms of the parameters' own.

    Gaussian, then d <- d / |d| * |w| for each filter. Norms and biases are not moved. The same key gives the same
    direction on every mesh. So a model whose weights are larger without computing anything else looks no flatter.

    Args:
        params: A decoder's parameters, as `nnx.split` returns them.
        key: A key of `jax.random`.

    Returns:
        A tree like `params`.

    Reference: Li et al. 2018 (arXiv 1712.09913), section 4.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
    drawn = jax.tree.map(lambda leaf, own: jax.random.normal(own, leaf.shape, jnp.float32), params, keys)

    def scaled(leaf: jax.Array, own: jax.Array, wanted: jax.Array, norm: jax.Array) -> jax.Array:
        return (own * (wanted / jnp.where(norm == 0, 1, norm))).astype(leaf.dtype)

    return jax.tree.map(scaled, params, drawn, filter_norms(params), filter_norms(drawn))
