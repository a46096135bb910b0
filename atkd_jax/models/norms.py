"""Normalisation over the last axis, in float32, whatever the dtype of what is normalised."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

NormKind = Literal["rms", "rms_centred", "layer"]
NORM_KINDS = get_args(NormKind)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, 2019, arXiv 1910.07467).

    With `centred` the parameter is what the factor exceeds 1 by, as in Gemma's checkpoints.
    """

    def __init__(
        self, width: int, *, eps: float, centred: bool = False, stack: tuple[int, ...] = (), param_dtype=jnp.float32
    ):
        self.eps = eps
        self.centred = centred
        self.scale = nnx.Param((jnp.zeros if centred else jnp.ones)((*stack, width), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalised `x` [..., width] in its dtype."""
        wide = x.astype(jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        scale = 1 + scale if self.centred else scale
        return (wide * inverse_rms * jnp.broadcast_to(scale, wide.shape)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalisation to mean 0 and variance 1, then a factor and a bias (Ba et al., 2016, arXiv 1607.06450)."""

    def __init__(self, width: int, *, eps: float, stack: tuple[int, ...] = (), param_dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, width), param_dtype))
        self.bias = nnx.Param(jnp.zeros((*stack, width), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalised `x` [..., width] in its dtype."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale, bias = (jnp.broadcast_to(each[...].astype(jnp.float32), wide.shape) for each in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)


def make_norm(kind: NormKind, width: int, *, eps: float, **kinds) -> RMSNorm | LayerNorm:
    """Return a norm of one of the kinds that a config names; `kinds` are `stack` and `param_dtype`."""
    if kind == "layer":
        return LayerNorm(width, eps=eps, **kinds)
    return RMSNorm(width, eps=eps, centred=kind == "rms_centred", **kinds)
