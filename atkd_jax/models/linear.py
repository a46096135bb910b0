"""A product with a kernel. It holds the parameters of all layers, stacked on a leading axis, and computes with one.

`lax.scan` takes the stack apart: inside its body the leading axis is gone. A module built with `stack=()` has none.
A kernel may be stored as small integers (`models.quantization`), and an adapter of low rank may stand beside it
(`models.adapters`).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.models.quantized_array import dequantized


class Linear(nnx.Module):
    """A product with a kernel whose first `len(inputs)` axes are summed over and whose others are the result's.

    The kernel is cast to the input's dtype, and so is the bias, which is added where `bias` asks for one.
    """

    adapter_scale: float | None = None
    """What the product with `adapter_in` and `adapter_out` is multiplied by; None where there are none."""
    adapter_in: nnx.Param
    adapter_out: nnx.Param
    is_quantized: bool = False
    kernel_scale: nnx.Param

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
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        kernel = stddev * jax.random.normal(rngs.params(), (*stack, *inputs, *outputs), jnp.float32)
        self.kernel = nnx.Param(kernel.astype(param_dtype))
        self.has_bias = bias
        if bias:
            self.bias = nnx.Param(jnp.zeros((*stack, *outputs), param_dtype))

    def dense_kernel(self, dtype) -> jax.Array:
        """Return the kernel in a float type, whatever it is stored as."""
        if self.is_quantized:
            return dequantized(self.kernel[...], self.kernel_scale[...]).astype(dtype)
        return self.kernel[...].astype(dtype)

    def _adapted(self, rows: jax.Array) -> jax.Array:
        """Return what the adapter adds to the product with rows [..., inputs]."""
        inputs, outputs = self.adapter_in[...].astype(rows.dtype), self.adapter_out[...].astype(rows.dtype)
        rank = outputs.shape[0]
        product = (rows @ inputs.reshape(-1, rank)) @ outputs.reshape(rank, -1)
        return product * jnp.asarray(self.adapter_scale, rows.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., *outputs] of `x` [..., *inputs]."""
        kernel = self.dense_kernel(x.dtype)
        inputs, outputs = kernel.shape[: self.num_inputs], kernel.shape[self.num_inputs :]
        rest = x.shape[: x.ndim - self.num_inputs]
        # As plain matrices, the gradients too come out in the kernel's own layout: on CPUs a fifth of the backward
        # pass went into turning them.
        rows = x.reshape(*rest, math.prod(inputs))
        product = rows @ kernel.reshape(-1, math.prod(outputs))
        if self.adapter_scale is not None:
            product = product + self._adapted(rows)
        if self.has_bias:
            bias = self.bias[...].astype(x.dtype).reshape(-1)
            product = product + jnp.broadcast_to(bias, product.shape)
        return product.reshape(*rest, *outputs)
