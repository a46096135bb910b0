"""A teacher that was never run: soft labels of tokens from how alike their embeddings are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.decoder import Decoder


class TokenSimilarity(nnx.Module):
    """Says of each position how alike the token that comes next is to every other: a softmax of scaled cosines.

    It has what is asked of a teacher: states, and a head that turns them into logits. The state is the next token's
    embedding at length 1 and the head is all of them, so that rows of the vocabulary's similarities are formed a chunk
    of tokens at a time and their square never is. It looks at the token that is to be predicted, as a label does.

    Args:
        encoder: the model whose embeddings are taken; its layers are not used.
        scale: multiplies the cosines; 1 is ReffAKD's, which leaves 50,000 tokens nearly alike.
    """

    logit_softcap: float | None = None

    def __init__(self, encoder: Decoder, *, scale: float = 1.0):
        rows = encoder.embedding[...]
        wide = rows.astype(jnp.float32)
        length = jnp.linalg.norm(wide, axis=-1, keepdims=True)
        self.embedding = nnx.Param((wide / jnp.where(length == 0, 1, length)).astype(rows.dtype))
        self.scale = scale

    def hidden_states(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        mesh: Mesh | None = None,
    ) -> jax.Array:
        """Returns `[rows, length, width]`. The arguments are those of `Decoder.hidden_states`; only tokens matter."""
        rows = self.embedding[...][jnp.roll(tokens, -1, axis=-1)]
        return rows * jnp.asarray(self.scale, rows.dtype)

    def head_matrix(self) -> jax.Array:
        """Returns `[width, vocab]`."""
        return self.embedding[...].T
