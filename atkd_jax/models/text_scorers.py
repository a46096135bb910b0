"""Models that give a text one of a few scores: a decoder with a classification head, and a very small student."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.decoder import Decoder


class SequenceClassifier(nnx.Module):
    """A decoder of any family, and a linear head on the state of a text's last token.

    Args:
        decoder: its weights are trained too.
        classes: how many scores there are.
        rngs: its `params` stream draws the head.
    """

    def __init__(self, decoder: Decoder, classes: int, *, rngs: nnx.Rngs):
        self.decoder = decoder
        self.head = nnx.Linear(decoder.config.head_width, classes, rngs=rngs)

    def __call__(self, tokens: jax.Array, lengths: jax.Array, *, mesh: Mesh | None = None) -> jax.Array:
        """Returns float32 logits `[rows, classes]`.

        Args:
            tokens: int32 `[rows, length]`; what stands behind a text has no influence.
            lengths: int32 `[rows]`, at least 1.
            mesh: how the decoder is split over devices.
        """
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
        segments = (places < lengths[:, None]).astype(jnp.int32)
        hidden = self.decoder.hidden_states(tokens, segment_ids=segments, mesh=mesh)
        last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return self.head(last.astype(jnp.float32))


class TextScorer(nnx.Module):
    """Embeddings of hashed tokens, a convolution over three neighbours, the largest over the text, a linear head.

    Args:
        buckets: numbers that a token may have; 0 is none.
        classes: how many scores there are.
        width: of embeddings and of the convolution.
        rngs: its `params` stream draws the initial weights.
    """

    def __init__(self, buckets: int, classes: int, *, width: int, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(buckets, width, rngs=rngs)
        self.near = nnx.Conv(width, width, kernel_size=(3,), rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns logits `[rows, classes]` of int32 `[rows, length]`, as from `data.hashed_tokens`."""
        is_token = (tokens > 0)[..., None]
        x = jnp.where(is_token, self.embedding(tokens), 0)
        x = jnp.where(is_token, nnx.relu(self.near(x)), 0)
        return self.head(jnp.max(x, axis=1))
