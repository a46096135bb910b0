"""Keys and values of the tokens seen so far, in arrays whose shape never changes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from atkd_jax.models.config import DecoderConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """What `Decoder.decode` reads and extends. All rows fill the same slots; a row's padding is segment 0.

    Attributes:
        key: [layers, B, slots, kv_heads, head_dim].
        value: like key.
        segment_ids: int32 [B, slots], 0 for padding and for slots not yet filled.
        length: int32 scalar, the number of filled slots.
    """

    key: jax.Array
    value: jax.Array
    segment_ids: jax.Array
    length: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, batch_size: int, max_length: int, dtype) -> KVCache:
        """Return a cache of `max_length` slots with nothing in them."""
        shape = (config.num_layers, batch_size, max_length, config.num_kv_heads, config.head_dim)
        return cls(
            key=jnp.zeros(shape, dtype),
            value=jnp.zeros(shape, dtype),
            segment_ids=jnp.zeros((batch_size, max_length), jnp.int32),
            length=jnp.zeros((), jnp.int32),
        )
