"""What each axis of each parameter is, by name. `atkd_jax.sharding` says on which axis of the mesh a name lies."""

from __future__ import annotations

from typing import Any

import jax

Axes = tuple[str | None, ...]

_LINEARS: dict[str, Axes] = {
    "layers.attention.query": ("layers", "embed", "heads", "head_dim"),
    "layers.attention.key": ("layers", "embed", "kv_heads", "head_dim"),
    "layers.attention.value": ("layers", "embed", "kv_heads", "head_dim"),
    "layers.mlp.gate": ("layers", "embed", "mlp"),
    "layers.mlp.up": ("layers", "embed", "mlp"),
    "layers.mlp.down": ("layers", "mlp", "embed"),
}
_NORMS = ("attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm")
_LAYER_NORMS = [f"layers.{name}" for name in (*_NORMS, "attention.query_norm", "attention.key_norm")]

_AXES: dict[str, Axes] = {
    "embedding": ("vocab", "embed"),
    "position_embedding": (None, "embed"),
    **{f"{path}.{name}": ("layers", None) for path in _LAYER_NORMS for name in ("scale", "bias")},
    **{f"{path}.kernel": axes for path, axes in _LINEARS.items()},
    # The first two axes of a kernel are the layers and what is summed over.
    **{f"{path}.bias": (axes[0], *axes[2:]) for path, axes in _LINEARS.items()},
    "layers.attention.output.kernel": ("layers", "heads", "head_dim", "embed"),
    "layers.attention.output.bias": ("layers", "embed"),
    "layers.mlp.router.kernel": ("layers", "embed", None),
    "layers.mlp.experts.gate.kernel": ("layers", "experts", "embed", "mlp"),
    "layers.mlp.experts.up.kernel": ("layers", "experts", "embed", "mlp"),
    "layers.mlp.experts.down.kernel": ("layers", "experts", "mlp", "embed"),
    "final_norm.scale": (None,),
    "final_norm.bias": (None,),
    "project_in.kernel": (None, "embed"),
    "project_out.kernel": ("embed", None),
    "head": ("embed", "vocab"),
}
# An adapter reads what its kernel reads and gives what its kernel gives; its rank stays whole.
_ADAPTERS: dict[str, Axes] = {
    f"{path}.adapter_{side}": axes
    for path, kernel, inputs in (
        *((path, axes, 1) for path, axes in _LINEARS.items()),
        ("layers.attention.output", _AXES["layers.attention.output.kernel"], 2),
    )
    for side, axes in (
        ("in", (*kernel[: 1 + inputs], None)),
        ("out", (kernel[0], None, *kernel[1 + inputs :])),
    )
}
# Scales of integers lie beside them. Along the axes that a product sums over they are few, and stay whole.
_SCALES: dict[str, Axes] = {
    "embedding_scale": ("vocab", None),
    "head_scale": (None, "vocab"),
    **{f"{path}.kernel_scale": (axes[0], None, *axes[2:]) for path, axes in _LINEARS.items()},
    "layers.attention.output.kernel_scale": ("layers", "heads", None, "embed"),
    "layers.mlp.experts.gate.kernel_scale": ("layers", "experts", None, "mlp"),
    "layers.mlp.experts.up.kernel_scale": ("layers", "experts", None, "mlp"),
    "layers.mlp.experts.down.kernel_scale": ("layers", "experts", None, "embed"),
}
_AXES |= _ADAPTERS | _SCALES


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


def axes_around_decoder(params: Any) -> Any:
    """Return names of axes as `logical_axes` does, of a model that may have a decoder as its attribute `decoder`.

    Whatever is not below it has no names, and so lies whole on every device.
    """

    def axes(key_path: tuple[Any, ...], leaf: Any) -> Axes:
        outer, _, path = parameter_path(key_path).partition(".")
        return axes_of(path) if outer == "decoder" else (None,) * len(leaf.shape)

    return jax.tree_util.tree_map_with_path(axes, params)


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
