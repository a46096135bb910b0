"""Causal attention in which several query heads share a key-value head (Ainslie et al., 2023, arXiv 2305.13245)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.models.layers import Linear
from atkd_jax.models.rotary import rotate

# Far below every score and still finite, so that a row with nothing to attend to stays free of NaN.
MASKED_SCORE = -1e30


# A long row's queries are worked through in at most so many parts of at least so many tokens.
_MOST_PARTS = 8
_SHORTEST_PART = 128


def causal_attention(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Return what each token gathers from itself and the tokens before it in its own segment.

    The queries go in a few parts, each of which meets only the keys up to its own end: of the scores that the mask
    would discard, nearly half of all in a long row, most are never computed. The backward pass computes the rest anew,
    so that no [T, T] array is kept.

    Args:
        query: [B, T, heads, head_dim].
        key: [B, kv_heads, T, head_dim], with heads a multiple of kv_heads.
        value: like key.
        segment_ids: int [B, T].

    Returns:
        [B, T, heads, head_dim] in the value's dtype.
    """
    length = query.shape[1]
    part = max(_SHORTEST_PART, -(-length // _MOST_PARTS))
    attend = jax.checkpoint(_attend_up_to, prevent_cse=False, static_argnums=(4, 5))
    parts = [
        attend(query, key, value, segment_ids, start, min(start + part, length)) for start in range(0, length, part)
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _attend_up_to(query, key, value, segment_ids, start: int, end: int) -> jax.Array:
    """Do the queries from `start` to `end`."""
    mask = attention_mask(
        query_segments=segment_ids[:, start:end],
        key_segments=segment_ids[:, :end],
        query_slots=jnp.arange(start, end),
        key_slots=jnp.arange(end),
    )
    return grouped_query_attention(query[:, start:end], key[:, :, :end], value[:, :, :end], mask)


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
        key: [B, kv_heads, S, head_dim], with heads a multiple of kv_heads.
        value: like key.
        mask: bool [B, T, S], true where a query may look at a key.

    Returns:
        [B, T, heads, head_dim] in the value's dtype.
    """
    B, T, H, D = query.shape
    kv_heads, S = key.shape[1:3]
    group = H // kv_heads
    # Both products are batched matrix products as they stand, so that only heads are transposed, never scores.
    query = query.reshape(B, T, kv_heads, group, D).transpose(0, 2, 3, 1, 4).reshape(B, kv_heads, group * T, D)
    batch = ((0, 1), (0, 1))
    scores = jax.lax.dot_general(query, key, (((3,), (3,)), batch), preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores.reshape(B, kv_heads, group, T, S) * D**-0.5, MASKED_SCORE)
    probs = jax.nn.softmax(scores, axis=-1).astype(value.dtype).reshape(B, kv_heads, group * T, S)
    gathered = jax.lax.dot_general(probs, value, (((3,), (2,)), batch)).reshape(B, kv_heads, group, T, D)
    return gathered.transpose(0, 3, 1, 2, 4).reshape(B, T, H, D)


class Attention(nnx.Module):
    """The projections of self-attention with rotary positions; what is between them is the caller's, for a cache."""

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

    def queries_keys_values(
        self, x: jax.Array, angles: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads of `x` [B, T, width], queries and keys turned by their positions.

        Queries are [B, T, heads, head_dim]; keys and values [B, kv_heads, T, head_dim], as a cache holds them.
        """
        key, value = rotate(self.key(x), *angles), self.value(x)
        return rotate(self.query(x), *angles), key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
