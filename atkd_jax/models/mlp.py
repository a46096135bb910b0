"""What a layer does with each token by itself: two products, an activation in between, and often a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
from flax import nnx

from atkd_jax.models.linear import Linear

if TYPE_CHECKING:
    from atkd_jax.models.config import DecoderConfig

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class MLP(nnx.Module):
    """down(activation(up(x))), or with a gate down(activation(gate(x)) * up(x)) (Shazeer, 2020, arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, stddev: float, down_stddev: float, **kinds):
        self.activation = config.activation
        self.is_gated = config.gated_mlp
        kinds |= {"rngs": rngs, "bias": config.mlp_bias}
        if config.gated_mlp:
            self.gate = Linear((config.width,), (config.mlp_width,), stddev=stddev, **kinds)
        self.up = Linear((config.width,), (config.mlp_width,), stddev=stddev, **kinds)
        self.down = Linear((config.mlp_width,), (config.width,), stddev=down_stddev, **kinds)

    def units(self, x: jax.Array) -> jax.Array:
        """Return what `down` is applied to, [..., mlp_width] of `x` [..., width]."""
        activate = ACTIVATIONS[self.activation]
        return activate(self.gate(x)) * self.up(x) if self.is_gated else activate(self.up(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., width] of `x` [..., width]."""
        return self.down(self.units(x))
