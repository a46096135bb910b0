"""What is kept of a model's distribution while the vocabulary is gone over block by block."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rest(NamedTuple):
    """One model's distribution without the target, each `[tokens]`; with a target of -1, the whole distribution.

    Attributes:
      largest: the largest logit.
      total: the sum of exp(logit - largest), 0 where no word is left.
      target: the target's own logit, -inf where it has not been seen.
    """

    largest: jax.Array
    total: jax.Array
    target: jax.Array

    def shift(self) -> jax.Array:
        """Returns `largest`, and 0 where no word is left."""
        return jnp.where(self.largest == -jnp.inf, 0, self.largest)

    def log_total(self) -> jax.Array:
        """Returns the log of `total`, and 0 where no word is left."""
        return jnp.log(jnp.where(self.total != 0, self.total, 1))

    def margin(self) -> jax.Array:
        """Returns the target's logit less the log-sum-exp of the rest; see `log_space.target_margin`."""
        return jnp.where(self.total != 0, self.target - self.shift() - self.log_total(), jnp.inf)

    def log_probs(self, logits: jax.Array) -> jax.Array:
        """Returns the log probabilities of a block of logits, `[tokens, words]`, within the rest."""
        return (logits - self.shift()[:, None]) - self.log_total()[:, None]

    def whole(self) -> Rest:
        """Returns the distribution of all words, the target among them, as the rest of no target."""
        largest = jnp.maximum(self.largest, self.target)
        shift = jnp.where(largest == -jnp.inf, 0, largest)
        total = self.total * jnp.exp(self.largest - shift) + jnp.exp(self.target - shift)
        return Rest(largest, total, jnp.full_like(self.target, -jnp.inf))

    def updated(self, logits: jax.Array, column: jax.Array) -> tuple[Rest, jax.Array]:
        """Returns the rest with a block of logits taken into account, and that block less the new shift.

        The target stands in `column`, `[tokens]`, of the block, or not in the block.
        """
        without_target = jnp.where(is_column(logits, column), -jnp.inf, logits)
        largest = jnp.maximum(self.largest, jnp.max(without_target, axis=-1))
        after = self._replace(largest=largest)
        shifted = without_target - after.shift()[:, None]
        total = self.total * jnp.exp(self.largest - after.shift()) + jnp.sum(jnp.exp(shifted), axis=-1)
        words = logits.shape[-1]
        met = jnp.take_along_axis(logits, jnp.clip(column, 0, words - 1)[:, None], axis=-1, mode="promise_in_bounds")
        target = jnp.where((column >= 0) & (column < words), met[:, 0], self.target)
        return Rest(largest, total, target), shifted

    def over_devices(self, axis: str) -> Rest:
        """Returns the rest of the whole vocabulary where each device has seen its own part of it."""
        after = self._replace(largest=jax.lax.pmax(self.largest, axis))
        total = jax.lax.psum(self.total * jnp.exp(self.largest - after.shift()), axis)
        return Rest(after.largest, total, jax.lax.pmax(self.target, axis))


def is_column(logits: jax.Array, column: jax.Array) -> jax.Array:
    """Returns bool `[tokens, words]`, True where a block's column is that of the token's target."""
    return jnp.arange(logits.shape[-1], dtype=column.dtype)[None] == column[:, None]


def unseen(tokens: jax.Array) -> Rest:
    """Returns the rest before any block; `tokens` has its shape."""
    zero = jnp.zeros(tokens.shape, jnp.float32)
    return Rest(zero - jnp.inf, zero, zero - jnp.inf)
