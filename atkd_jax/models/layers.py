"""The parts of a layer. Each holds the parameters of all layers, stacked on a leading axis, and computes with one.

`lax.scan` takes the stack apart: inside its body the leading axis is gone. A module built with `stack=()` has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"silu": jax.nn.silu}


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis, in float32 (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float, stack: tuple[int, ...] = (), param_dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, width), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalised `x` [..., width] in its dtype."""
        wide = x.astype(jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        return (wide * inverse_rms * jnp.broadcast_to(scale, wide.shape)).astype(x.dtype)


class Linear(nnx.Module):
    """A product with a kernel whose first `len(inputs)` axes are summed over and whose others are the result's.

    The kernel is cast to the input's dtype.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        stddev: float,
        stack: tuple[int, ...] = (),
        param_dtype=jnp.float32,
    ):
        self.num_inputs = len(inputs)
        kernel = stddev * jax.random.normal(rngs.params(), (*stack, *inputs, *outputs), jnp.float32)
        self.kernel = nnx.Param(kernel.astype(param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., *outputs] of `x` [..., *inputs]."""
        kernel = self.kernel[...].astype(x.dtype)
        inputs, outputs = kernel.shape[: self.num_inputs], kernel.shape[self.num_inputs :]
        rest = x.shape[: x.ndim - self.num_inputs]
        # As plain matrices, the gradients too come out in the kernel's own layout: on CPUs a fifth of the backward
        # pass went into turning them.
        product = x.reshape(-1, math.prod(inputs)) @ kernel.reshape(-1, math.prod(outputs))
        return product.reshape(*rest, *outputs)


class GatedMLP(nnx.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer, 2020, arXiv 2002.05202)."""

    def __init__(
        self, width: int, mlp_width: int, *, activation: str, rngs: nnx.Rngs, stddev: float, down_stddev: float, **kinds
    ):
        self.activation = activation
        self.gate = Linear((width,), (mlp_width,), rngs=rngs, stddev=stddev, **kinds)
        self.up = Linear((width,), (mlp_width,), rngs=rngs, stddev=stddev, **kinds)
        self.down = Linear((mlp_width,), (width,), rngs=rngs, stddev=down_stddev, **kinds)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., width] of `x` [..., width]."""
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))
