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


def paired_states(teacher_index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives, for each of the student's positions, where in its row the teacher predicts the token that goes with it.

    Args:
      teacher_index: int32 `[rows, length]`: for each of the student's tokens the place of the teacher's token that goes
        with it as a target, or 0 where there is none, since the first token of a row has no state before it.

    Returns:
      `(states, paired)`: int32 and bool `[rows, length]`. The student's state t predicts its token t+1; the teacher's
      state `states[r, t]` predicts the token that goes with that one. `paired` is false where there is none, and at the
      last position.
    """
    following = jnp.roll(teacher_index, -1, axis=-1)
    has_successor = jax.lax.broadcasted_iota(jnp.int32, following.shape, following.ndim - 1) < following.shape[-1] - 1
    paired = (following > 0) & has_successor
    return jnp.where(paired, following - 1, 0), paired
