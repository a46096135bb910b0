"""Keys and values of the tokens seen so far, in arrays whose shape never changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from atkd_jax.models.config import DecoderConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """What `Decoder.decode` reads and extends. All rows fill the same slots; a row's padding is segment 0.

    Attributes:
        key: [layers, B, kv_heads, slots, head_dim]; for a decoder without a stack, a tuple of one array a layer.
        value: like key.
        segment_ids: int32 [B, slots], 0 for padding and for slots not yet filled.
        length: int32 scalar, the number of filled slots.
    """

    key: Any
    value: Any
    segment_ids: jax.Array
    length: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, batch_size: int, max_length: int, dtype: Any) -> KVCache:
        """Return a cache of `max_length` slots with nothing in them, stacked."""
        shape = (config.num_layers, batch_size, config.num_kv_heads, max_length, config.head_dim)
        return cls(
            key=jnp.zeros(shape, dtype),
            value=jnp.zeros(shape, dtype),
            segment_ids=jnp.zeros((batch_size, max_length), jnp.int32),
            length=jnp.zeros((), jnp.int32),
        )

    def unstacked(self) -> KVCache:
        """Return the same cache with an array per layer."""
        layers = range(self.key.shape[0])
        return dataclasses.replace(
            self, key=tuple(self.key[i] for i in layers), value=tuple(self.value[i] for i in layers)
        )
