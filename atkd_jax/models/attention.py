"""Causal attention in which several query heads share a key-value head (Ainslie et al., 2023, arXiv 2305.13245)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.models.layers import Linear
from atkd_jax.models.rotary import rotate

# Far below every score and still finite, so that a row with nothing to attend to stays free of NaN.
MASKED_SCORE = -1e30


def attention_mask(
    *, query_segments: jax.Array, key_segments: jax.Array, query_slots: jax.Array, key_slots: jax.Array
) -> jax.Array:
    """Return who may look at whom: bool [B, T, S], true within a segment and not ahead.

    Args:
        query_segments: int [B, T].
        key_segments: int [B, S].
        query_slots: int [T], the queries' places in the row.
        key_slots: int [S].
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return same & (query_slots[:, None] >= key_slots[None, :])[None]


def grouped_query_attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Return softmax(query key^T / sqrt(head_dim)) value, each key-value head serving a group of query heads.

    The scores and the softmax are float32; no head is repeated in memory.

    Args:
        query: [B, T, heads, head_dim].
        key: [B, S, kv_heads, head_dim], with heads a multiple of kv_heads.
        value: like key.
        mask: bool [B, T, S], true where a query may look at a key.

    Returns:
        [B, T, heads, head_dim] in the query's dtype.
    """
    B, T, H, D = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(B, T, kv_heads, H // kv_heads, D)
    scores = jnp.einsum("btkgd,bskd->bkgts", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * D**-0.5, MASKED_SCORE)
    probs = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", probs, value).reshape(B, T, H, D)


class Attention(nnx.Module):
    """Self-attention with rotary positions. `keys_values` and `attend` are apart so that a cache fits between them."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        rngs: nnx.Rngs,
        stddev: float,
        output_stddev: float,
        **kinds,
    ):
        self.query = Linear((width,), (num_heads, head_dim), rngs=rngs, stddev=stddev, **kinds)
        self.key = Linear((width,), (num_kv_heads, head_dim), rngs=rngs, stddev=stddev, **kinds)
        self.value = Linear((width,), (num_kv_heads, head_dim), rngs=rngs, stddev=stddev, **kinds)
        self.output = Linear((num_heads, head_dim), (width,), rngs=rngs, stddev=output_stddev, **kinds)

    def keys_values(self, x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return the turned keys and the values of `x` [B, T, width]: [B, T, kv_heads, head_dim] each."""
        return rotate(self.key(x), *angles), self.value(x)

    def attend(
        self, x: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, angles: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """Return what the queries of `x` [B, T, width] gather from keys and values [B, S, ...]: [B, T, width]."""
        return self.output(grouped_query_attention(rotate(self.query(x), *angles), key, value, mask))
