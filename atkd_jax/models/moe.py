"""A mixture of experts: each token goes through a few of many gated MLPs (Fedus et al., 2021, arXiv 2101.03961)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.models.linear import Linear
from atkd_jax.models.mlp import ACTIVATIONS

if TYPE_CHECKING:
    from atkd_jax.models.config import DecoderConfig


class ExpertMLP(nnx.Module):
    """The sum of each token's likeliest experts, weighted by the router's probabilities.

    Tokens are sorted by expert, so that each expert computes with its own tokens alone and none is ever dropped.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, stddev: float, down_stddev: float, **kinds):
        self.activation = config.activation
        self.num_experts = config.num_experts
        self.experts_per_token = config.experts_per_token
        self.normalize_weights = config.normalize_expert_weights
        self.router = Linear((config.width,), (config.num_experts,), rngs=rngs, stddev=stddev, **kinds)
        self.experts = _Experts(config, rngs=rngs, stddev=stddev, down_stddev=down_stddev, **kinds)

    def route(self, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the weights, float32, and the numbers of each row's experts: [rows, experts_per_token] each."""
        probs = jax.nn.softmax(self.router(rows).astype(jnp.float32), axis=-1)
        weights, numbers = jax.lax.top_k(probs, self.experts_per_token)
        if self.normalize_weights:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        return weights, numbers

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., width] of `x` [..., width]."""
        rows = x.reshape(-1, x.shape[-1])
        weights, numbers = self.route(rows)
        order = jnp.argsort(numbers.reshape(-1), stable=True)
        tokens_of_expert = jnp.bincount(numbers.reshape(-1), length=self.num_experts).astype(jnp.int32)
        gathered = self.experts(rows[order // self.experts_per_token], tokens_of_expert, ACTIVATIONS[self.activation])
        each = gathered[jnp.argsort(order)].reshape(*numbers.shape, -1)
        return jnp.einsum("ne,new->nw", weights.astype(x.dtype), each).reshape(x.shape)


class _Experts(nnx.Module):
    """The kernels of all experts, on an axis before their own."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, stddev: float, down_stddev: float, stack, param_dtype):
        kinds = {"rngs": rngs, "stack": (*stack, config.num_experts), "param_dtype": param_dtype}
        self.gate = Linear((config.width,), (config.mlp_width,), stddev=stddev, **kinds)
        self.up = Linear((config.width,), (config.mlp_width,), stddev=stddev, **kinds)
        self.down = Linear((config.mlp_width,), (config.width,), stddev=down_stddev, **kinds)

    def __call__(self, rows: jax.Array, rows_of_expert: jax.Array, activate) -> jax.Array:
        """Return [rows, width] of rows that are sorted by their expert."""

        def product(rows: jax.Array, linear: Linear) -> jax.Array:
            return jax.lax.ragged_dot(rows, linear.dense_kernel(rows.dtype), rows_of_expert)

        return product(activate(product(rows, self.gate)) * product(rows, self.up), self.down)
