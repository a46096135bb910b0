"""What each axis of each parameter is, by name. `atkd_jax.sharding` says on which axis of the mesh a name lies."""

from __future__ import annotations

from typing import Any

import jax

Axes = tuple[str | None, ...]

_AXES: dict[str, Axes] = {
    "embedding": ("vocab", "embed"),
    "layers.attention_norm.scale": ("layers", None),
    "layers.attention.query.kernel": ("layers", "embed", "heads", "head_dim"),
    "layers.attention.key.kernel": ("layers", "embed", "kv_heads", "head_dim"),
    "layers.attention.value.kernel": ("layers", "embed", "kv_heads", "head_dim"),
    "layers.attention.output.kernel": ("layers", "heads", "head_dim", "embed"),
    "layers.mlp_norm.scale": ("layers", None),
    "layers.mlp.gate.kernel": ("layers", "embed", "mlp"),
    "layers.mlp.up.kernel": ("layers", "embed", "mlp"),
    "layers.mlp.down.kernel": ("layers", "mlp", "embed"),
    "final_norm.scale": (None,),
    "head": ("embed", "vocab"),
}


def parameter_path(key_path: tuple[Any, ...]) -> str:
    """Return a parameter's name, such as `layers.mlp.up.kernel`, from the path that `jax.tree_util` gives it."""
    # The last key of a path into an nnx state is the attribute `value` of a Param.
    keys = [key.key for key in key_path if isinstance(key, jax.tree_util.DictKey)]
    return ".".join(str(key) for key in keys)


def axes_of(path: str) -> Axes:
    """Return the names of the axes of the parameter called `path`, such as `layers.mlp.up.kernel`.

    Raises:
        ValueError: where a decoder has no such parameter.
    """
    if path not in _AXES:
        raise ValueError(
            f"logical_axes: every array must be a parameter of a Decoder, got {path!r}; known are {sorted(_AXES)}."
        )
    return _AXES[path]


def logical_axes(params: Any) -> Any:
    """Return the same tree with the names of its axes in place of each array, a tuple per array.

    Args:
        params: a `Decoder`'s parameters, as `nnx.split` returns them, or anything of that structure: gradients,
            moments, `jax.ShapeDtypeStruct`, nested dicts of arrays.

    Raises:
        ValueError: where an array is none of a decoder's parameters, or has another number of axes.
    """

    def axes(key_path: tuple[Any, ...], leaf: Any) -> Axes:
        path = parameter_path(key_path)
        names = axes_of(path)
        if len(leaf.shape) != len(names):
            raise ValueError(
                f"logical_axes: {path} must have the axes {names}, got the shape {leaf.shape}; pass the stacked "
                "parameters of all layers."
            )
        return names

    return jax.tree_util.tree_map_with_path(axes, params)
