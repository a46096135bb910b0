"""Work on the counted tokens alone, a chunk at a time.

Half of a batch's tokens may be prompts and padding. The products with the vocabulary, which are most of a small
student's cost, are spared for them: tokens that count are taken first, and a loop goes only as far as there are any.
Shapes stay static, the number of turns does not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class CountedChunks(NamedTuple):
    """Where the counted tokens are.

    Attributes:
        order: int32 `[chunks * chunk_tokens]`, numbers of tokens, the counted ones first and in their order.
        counted: int32, how many count.
        turns: int32, how many chunks hold any.
        chunk_tokens: the size of a chunk.
    """

    order: jax.Array
    counted: jax.Array
    turns: jax.Array
    chunk_tokens: int

    def chunk(self, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns a chunk's numbers of tokens, and bool, which of them count; the others are to be ignored."""
        start = turn * self.chunk_tokens
        numbers = jax.lax.dynamic_slice_in_dim(self.order, start, self.chunk_tokens)
        return numbers, start + jnp.arange(self.chunk_tokens) < self.counted


def counted_chunks(mask: jax.Array, chunk_tokens: int) -> CountedChunks:
    """Returns the chunks of the tokens where `mask`, bool `[tokens]`, is true."""
    tokens = mask.shape[0]
    chunk_tokens = min(chunk_tokens, tokens)
    order = jnp.argsort(~mask, stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -tokens % chunk_tokens))
    counted = jnp.sum(mask, dtype=jnp.int32)
    return CountedChunks(order, counted, (counted + chunk_tokens - 1) // chunk_tokens, chunk_tokens)
