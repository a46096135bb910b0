"""Prompts in, token lists out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.generation.decoding import decode_until_end
from atkd_jax.generation.prompts import check_prompts, left_pad
from atkd_jax.generation.sampling import greedy, sample
from atkd_jax.models import KVCache


def generate(
    graphdef: nnx.GraphDef,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    key: jax.Array | None = None,
    batch_size: int | None = None,
) -> list[list[int]]:
    """Return what a `Decoder` writes after each prompt: token ids, the prompt left out, a closing EOS kept.

    A row's text depends on its prompt and its key, and on its neighbours in no way but the rounding of sums. The key of
    prompt number i is `jax.random.fold_in(key, i)`, and of its token number t that folded with t. During the call there
    is a second copy of the layers' parameters, taken apart for the loop.

    One program is compiled for each number of rows, length of a rectangle of prompts (`prompts.bucket_length`),
    `max_new_tokens`, `eos_ids` and `top_k`; temperatures and the values of `top_p` share it.

    Args:
        graphdef: of the decoder, from `nnx.split`.
        params: its parameters, on any devices.
        prompts: lists of token ids, of any lengths above 0.
        max_new_tokens: the longest answer.
        eos_ids: an answer ends with any of these; it may be empty.
        pad_id: fills rectangles up; it is never looked at.
        temperature: 0 takes the likeliest token, ignoring `top_k`, `top_p` and `key`.
        top_k: draw among so many of the likeliest tokens.
        top_p: draw among the fewest tokens with so much of the probability together.
        key: needed where tokens are drawn.
        batch_size: work through the prompts in groups of so many rows; all at once if not given.

    Raises:
        InputError: where there is no prompt, a prompt has no token or one outside of the vocabulary, or a setting is
            out of its range.
    """
    config = nnx.merge(graphdef, params).config
    _check_settings(max_new_tokens, temperature, top_k, top_p, key, batch_size)
    check_prompts(prompts, vocab_size=config.vocab_size)
    is_greedy = temperature == 0
    run = partial(
        _generate_rows,
        graphdef,
        params,
        temperature=jnp.float32(temperature),
        top_p=None if is_greedy or top_p is None or top_p == 1 else jnp.float32(top_p),
        top_k=None if is_greedy else top_k,
        is_greedy=is_greedy,
        max_new_tokens=max_new_tokens,
        eos_ids=tuple(eos_ids),
        pad_id=pad_id,
    )
    rows = min(batch_size or len(prompts), len(prompts))
    groups = (range(start, start + rows) for start in range(0, len(prompts), rows))
    return [answer for numbers in groups for answer in _generate_group(run, prompts, numbers, key=key, pad_id=pad_id)]


def _generate_group(
    run: Callable, prompts: Sequence[Sequence[int]], numbers: range, *, key: jax.Array | None, pad_id: int
) -> list[list[int]]:
    """Return the answers to the prompts of these numbers; numbers beyond the last prompt only fill the group up."""
    group = prompts[numbers.start : numbers.stop]
    tokens, present = left_pad(group, rows=len(numbers), pad_id=pad_id)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0) if key is None else key))(np.asarray(numbers))
    written, lengths = map(np.asarray, run(tokens, present, np.arange(len(numbers)) < len(group), keys))
    return [row[:length].tolist() for row, length in zip(written, lengths, strict=True)][: len(group)]


@partial(jax.jit, static_argnames=("graphdef", "top_k", "is_greedy", "max_new_tokens", "eos_ids", "pad_id"))
def _generate_rows(
    graphdef: nnx.GraphDef,
    params: Any,
    tokens: jax.Array,
    present: jax.Array,
    is_wanted: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array,
    top_p: jax.Array | None,
    top_k: int | None,
    is_greedy: bool,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
    """Prefill, then the loop, for one rectangle of prompts; rows that are not wanted end at once."""
    model = nnx.merge(graphdef, params)
    prompt_lengths = jnp.sum(present, axis=1, dtype=jnp.int32)
    positions = jnp.maximum(jnp.cumsum(present, axis=1, dtype=jnp.int32) - 1, 0)
    hidden, cache = model.prefill(
        tokens,
        positions=positions,
        segment_ids=present.astype(jnp.int32),
        max_length=tokens.shape[1] + max_new_tokens,
    )
    layers = model.unstacked_layers()

    def advance(tokens: jax.Array, step: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        positions = (prompt_lengths + step)[:, None]
        hidden, cache = model.decode(tokens[:, None], positions=positions, cache=cache, layers=layers)
        return model.logits(hidden[:, 0]), cache

    def choose(logits: jax.Array, step: jax.Array) -> jax.Array:
        if is_greedy:
            return greedy(logits)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
        return sample(logits, step_keys, temperature=temperature, top_k=top_k, top_p=top_p)

    return decode_until_end(
        model.logits(hidden[:, -1]),
        cache.unstacked(),
        advance=advance,
        choose=choose,
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        pad_id=pad_id,
        is_wanted=is_wanted,
    )


def _check_settings(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    key: jax.Array | None,
    batch_size: int | None,
) -> None:
    """Raise InputError where a setting is out of its range."""
    if max_new_tokens < 1:
        raise InputError(f"generate: max_new_tokens must be at least 1, got {max_new_tokens}; raise it.")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"generate: temperature must be a number from 0 on, got {temperature}; 0 means greedy.")
    if top_k is not None and top_k < 1:
        raise InputError(f"generate: top_k must be at least 1, got {top_k}; leave it out for no cut.")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"generate: top_p must be above 0 and at most 1, got {top_p}; leave it out for no cut.")
    if temperature > 0 and key is None:
        raise InputError(
            f"generate: temperature {temperature} draws tokens and needs a key; pass key or temperature 0."
        )
    if batch_size is not None and batch_size < 1:
        raise InputError(f"generate: batch_size must be at least 1, got {batch_size}; leave it out for all at once.")
