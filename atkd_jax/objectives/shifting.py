"""The one place where positions are paired with the tokens that they predict."""

import jax
import jax.numpy as jnp


def next_token_targets(
    *, tokens: jax.Array, segment_ids: jax.Array, loss_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives, for each position, the token that follows it, and whether that prediction counts.

    The arrays keep their length: the last position of a row has no successor and never counts, so `[rows, length]`
    stays a shape that divides well.

    Args:
      tokens: int32 `[rows, length]`.
      segment_ids: int32 `[rows, length]`; 0 is padding, equal numbers are one example.
      loss_mask: bool `[rows, length]`, true where this token, as a target, counts.

    Returns:
      `(targets, mask)`: int32 and bool `[rows, length]`. `mask[r, t]` is true where token t+1 counts and belongs to the
      same example as token t.
    """
    targets = jnp.roll(tokens, -1, axis=-1)
    same_example = (jnp.roll(segment_ids, -1, axis=-1) == segment_ids) & (segment_ids > 0)
    has_successor = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, tokens.ndim - 1) < tokens.shape[-1] - 1
    return targets, jnp.roll(loss_mask, -1, axis=-1) & same_example & has_successor
