"""A product with a kernel. It holds the parameters of all layers, stacked on a leading axis, and computes with one.

`lax.scan` takes the stack apart: inside its body the leading axis is gone. A module built with `stack=()` has none.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx


class Linear(nnx.Module):
    """A product with a kernel whose first `len(inputs)` axes are summed over and whose others are the result's.

    The kernel is cast to the input's dtype, and so is the bias, which is added where `bias` asks for one.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        stddev: float,
        bias: bool = False,
        stack: tuple[int, ...] = (),
        param_dtype=jnp.float32,
    ):
        self.num_inputs = len(inputs)
        kernel = stddev * jax.random.normal(rngs.params(), (*stack, *inputs, *outputs), jnp.float32)
        self.kernel = nnx.Param(kernel.astype(param_dtype))
        self.has_bias = bias
        if bias:
            self.bias = nnx.Param(jnp.zeros((*stack, *outputs), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., *outputs] of `x` [..., *inputs]."""
        kernel = self.kernel[...].astype(x.dtype)
        inputs, outputs = kernel.shape[: self.num_inputs], kernel.shape[self.num_inputs :]
        rest = x.shape[: x.ndim - self.num_inputs]
        # As plain matrices, the gradients too come out in the kernel's own layout: on CPUs a fifth of the backward
        # pass went into turning them.
        product = x.reshape(*rest, math.prod(inputs)) @ kernel.reshape(-1, math.prod(outputs))
        if self.has_bias:
            bias = self.bias[...].astype(x.dtype).reshape(-1)
            product = product + jnp.broadcast_to(bias, product.shape)
        return product.reshape(*rest, *outputs)
