"""How much the layers, MLP units and heads of a model matter for some data, measured in one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.models.decoder import Decoder
from atkd_jax.models.layer import Angles, DecoderLayer
from atkd_jax.models.layer_kinds import LayerKind
from atkd_jax.models.mlp import MLP


class Importance(NamedTuple):
    """Sums over rows of a batch, which add up over batches; float32.

    Attributes:
        distance: [layers], over all tokens, 1 - the cosine between the residual stream before and after the layer.
        mlp_units: [layers, mlp_width], over rows, the square of the mean over the row's tokens of |activation|.
        kv_heads: [layers, kv_heads], over rows and the query heads that it serves, the square of the mean over the
            row's tokens of the length of what the head has gathered.
        tokens: how many tokens there were.
    """

    distance: jax.Array
    mlp_units: jax.Array
    kv_heads: jax.Array
    tokens: jax.Array


def measure_importance(
    model: Decoder, *, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> Importance:
    """Return what one batch says of the model's parts.

    `distance / tokens` is ShortGPT's block influence (Men et al., 2024, arXiv 2403.03853). The other two
    are Minitron's activation norms (Muralidharan et al., 2024, arXiv 2407.14679, section 2.2), with the mean over a
    sequence and the L2 norm over the batch, which the paper found to be the best of its choices; they rank as their
    square roots do.

    Args:
        model: without experts.
        tokens: int [B, T].
        positions: int [B, T].
        segment_ids: int [B, T]; 0 is padding, which does not count.
    """
    counted = (segment_ids > 0).astype(jnp.float32)
    shares = counted / jnp.maximum(counted.sum(axis=1, keepdims=True), 1.0)  # of each token in its row's mean

    def mean_over_row(values: jax.Array) -> jax.Array:
        return jnp.einsum("bt,bt...->b...", shares, values.astype(jnp.float32))

    def observe(layer: DecoderLayer, x: jax.Array, angles: Angles | None, kind: LayerKind):
        query, key, value = layer.queries_keys_values(x, angles, kind)
        gathered = layer.attention.causal(query, key, value, segment_ids, kind.window)
        assert isinstance(layer.mlp, MLP)  # experts are not pruned
        units = layer.mlp.units(layer.mlp_inputs(x, gathered)[1])
        after = layer.finish(x, gathered)
        lengths = jnp.linalg.norm(gathered.astype(jnp.float32), axis=-1)
        of_heads = jnp.sum(mean_over_row(lengths) ** 2, axis=0).reshape(model.config.num_kv_heads, -1).sum(axis=1)
        of_units = jnp.sum(mean_over_row(jnp.abs(units)) ** 2, axis=0)
        return after, (jnp.sum(counted * (1 - _cosine(x, after))), of_units, of_heads)

    distance, of_units, of_heads = model.observe_layers(observe, tokens=tokens, positions=positions)
    return Importance(distance, of_units, of_heads, counted.sum())


def _cosine(one: jax.Array, other: jax.Array) -> jax.Array:
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    lengths = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.sum(one * other, axis=-1) / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny)
