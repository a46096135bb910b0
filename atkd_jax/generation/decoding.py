"""The compiled loop: one token per row and step, until every row has ended or the room is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# (tokens [B], step, state) -> (logits [B, vocab], state), for the token number `step`, counted from 0, just written.
Advance = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# (logits, step) -> tokens int32 [B], the token number `step`.
Choose = Callable[[jax.Array, jax.Array], jax.Array]


class Writing(NamedTuple):
    """Text that is being written; a pytree of constant shapes.

    Attributes:
        step: int32 scalar, the number of tokens that rows which have not ended have.
        written: int32 [B, room], the tokens, and `pad_id` behind a row's end.
        tokens: int32 [B], the last one of each row.
        ended: bool [B].
        lengths: int32 [B], how many tokens each row has, its end included.
        state: what the model needs to go on.
    """

    step: jax.Array
    written: jax.Array
    tokens: jax.Array
    ended: jax.Array
    lengths: jax.Array
    state: Any


class Ending(NamedTuple):
    """How rows end, all of it static.

    Attributes:
        max_new_tokens: the room.
        eos_ids: a row ends with any of these, which is written and counted.
        pad_id: what stands behind a row's end.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int


def begin_writing(
    first_logits: jax.Array, state: Any, *, choose: Choose, ending: Ending, is_wanted: jax.Array | None = None
) -> Writing:
    """Return the text after its first token.

    Args:
        first_logits: [B, vocab], what the prompt's last token predicts.
        state: what `advance` needs and renews, of constant shapes.
        choose: picks the tokens.
        ending: how rows end.
        is_wanted: bool [B]; a row with False, which only fills the rectangle up, has ended from the start.
    """
    rows = first_logits.shape[0]
    written = jnp.full((rows, ending.max_new_tokens), ending.pad_id, jnp.int32)
    ended = jnp.zeros(rows, bool) if is_wanted is None else ~is_wanted
    start = jnp.zeros((), jnp.int32)
    writing = Writing(start, written, written[:, 0], ended, jnp.zeros(rows, jnp.int32), state)
    return _with_next_tokens(writing, first_logits, choose, ending)


def go_on_writing(
    writing: Writing, *, advance: Advance, choose: Choose, ending: Ending, until: jax.Array | int
) -> Writing:
    """Return the text once its rows have `until` tokens, or have all ended.

    The loop knows nothing of models and caches: the state is theirs, so that one model, or two that mix, may drive it.
    """

    def body(writing: Writing) -> Writing:
        logits, state = advance(writing.tokens, writing.step - 1, writing.state)
        return _with_next_tokens(writing._replace(state=state), logits, choose, ending)

    def goes_on(writing: Writing) -> jax.Array:
        return (writing.step < until) & ~jnp.all(writing.ended)

    return jax.lax.while_loop(goes_on, body, writing)


def _with_next_tokens(writing: Writing, logits: jax.Array, choose: Choose, ending: Ending) -> Writing:
    tokens = jnp.where(writing.ended, ending.pad_id, choose(logits, writing.step))
    return Writing(
        step=writing.step + 1,
        written=jax.lax.dynamic_update_slice_in_dim(writing.written, tokens[:, None], writing.step, axis=1),
        tokens=tokens,
        ended=writing.ended | jnp.isin(tokens, jnp.asarray(ending.eos_ids, jnp.int32)),
        lengths=writing.lengths + (~writing.ended).astype(jnp.int32),
        state=writing.state,
    )
