"""A decoder whose matrices are stored as small integers: for a teacher, which is never trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.models.decoder import Decoder
from atkd_jax.models.linear import Linear
from atkd_jax.models.quantized_array import Bits, quantized

# (path such as "layers.mlp.up.kernel", shape) -> where the array shall live.
Place = Callable[[str, tuple[int, ...]], Any]


def _linears(model: Decoder) -> list[tuple[str, Linear]]:
    """Return the products within the layers, but for the router, whose choice among experts is no matter of size."""
    found = []
    for path, module in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        if isinstance(module, Linear) and name.startswith("layers.") and not name.endswith(".router"):
            found.append((name, module))
    return found


def _stored(
    path: str, array: jax.Array, bits: Bits, summed_axes: tuple[int, ...], place: Place | None
) -> tuple[nnx.Param, nnx.Param]:
    program = partial(quantized, bits=bits, summed_axes=summed_axes)
    shapes = jax.eval_shape(program, array)
    names = (path, f"{path}_scale")
    shardings = None
    if place is not None:
        shardings = tuple(place(name, leaf.shape) for name, leaf in zip(names, shapes, strict=True))
    integers, scale = jax.jit(program, out_shardings=shardings)(array)
    return nnx.Param(integers), nnx.Param(scale)


def quantize_in_place(model: Decoder, bits: Bits, *, place: Place | None = None) -> None:
    """Turn the model's matrices into integers, one after the other, each giving up its floats.

    The layers' kernels get `bits`; embedding and head get int8 in any case, because what little they weigh in a large
    model is not worth what four bits cost there. Norms, biases, learned positions and routers stay as they are. The
    arithmetic stays float: a layer's kernel is made dense when its turn comes.

    Args:
        model: in any float type; it cannot be trained or exported afterwards.
        bits: "int8" or "int4".
        place: says where an array shall live; as the compiler likes if not given.

    Raises:
        InputError: where qwix is not installed.
    """
    for name, linear in _linears(model):
        first = linear.kernel[...].ndim - linear.num_inputs - linear.num_outputs
        summed = tuple(range(first, first + linear.num_inputs))
        kernel, scale = _stored(f"{name}.kernel", linear.kernel[...], bits, summed, place)
        linear.kernel, linear.kernel_scale, linear.is_quantized = kernel, scale, True
    model.embedding, model.embedding_scale = _stored("embedding", model.embedding[...], "int8", (1,), place)
    if not model.config.tie_embeddings:
        model.head, model.head_scale = _stored("head", model.head[...], "int8", (0,), place)
    model.is_quantized = True


def weight_bytes(model: Decoder) -> int:
    """Return how many bytes the model's parameters take."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
