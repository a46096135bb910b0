"""The compiled loop: one token per row and step, until every row has ended or the room is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

State = TypeVar("State")


def decode_until_end(
    first_logits: jax.Array,
    state: State,
    *,
    advance: Callable[[jax.Array, jax.Array, State], tuple[jax.Array, State]],
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
    is_wanted: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the tokens written after a prompt, and how many of them each row has.

    The loop knows nothing of models and caches: `state` is theirs, so that one model, or two that mix, may drive it.

    Args:
        first_logits: [B, vocab], what the prompt's last token predicts.
        state: what `advance` needs and renews, of constant shapes.
        advance: (tokens [B], step, state) -> (logits [B, vocab], state), for the token number `step`, counted from 0,
            that was just written.
        choose: (logits, step) -> tokens int32 [B], the token number `step`.
        max_new_tokens: the room, static.
        eos_ids: a row ends with any of these, which is written and counted.
        pad_id: what stands behind a row's end.
        is_wanted: bool [B]; a row with False, which only fills the rectangle up, has ended from the start.

    Returns:
        tokens int32 [B, max_new_tokens] and lengths int32 [B].
    """
    ends = jnp.asarray(eos_ids, jnp.int32)

    def write(written: jax.Array, ended: jax.Array, logits: jax.Array, step: jax.Array):
        tokens = jnp.where(ended, pad_id, choose(logits, step))
        written = jax.lax.dynamic_update_slice_in_dim(written, tokens[:, None], step, axis=1)
        return written, tokens, ended | jnp.isin(tokens, ends)

    def body(loop):
        step, written, tokens, ended, lengths, state = loop
        logits, state = advance(tokens, step - 1, state)
        lengths = lengths + (~ended).astype(jnp.int32)
        written, tokens, ended = write(written, ended, logits, step)
        return step + 1, written, tokens, ended, lengths, state

    def goes_on(loop):
        step, _, _, ended, _, _ = loop
        return (step < max_new_tokens) & ~jnp.all(ended)

    rows = first_logits.shape[0]
    written = jnp.full((rows, max_new_tokens), pad_id, jnp.int32)
    start = jnp.zeros((), jnp.int32)
    ended = jnp.zeros(rows, bool) if is_wanted is None else ~is_wanted
    lengths = (~ended).astype(jnp.int32)
    written, tokens, ended = write(written, ended, first_logits, start)
    loop = (start + 1, written, tokens, ended, lengths, state)
    _, written, _, _, lengths, _ = jax.lax.while_loop(goes_on, body, loop)
    return written, lengths
