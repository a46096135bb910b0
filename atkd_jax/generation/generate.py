"""Prompts in, token lists out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.generation.decoding import Ending
from atkd_jax.generation.prompts import check_positions, check_prompts
from atkd_jax.generation.rows import Knobs, Plan, Rows, begin_rows, go_on_rows, place_rows
from atkd_jax.sharding import rows_divisor

# Where the host looks for stop strings, it does so after every so many tokens.
_SEGMENT_TOKENS = 16
EndOf = Callable[[Sequence[int]], int | None]


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
    numbers: Sequence[int] | None = None,
    end_of: EndOf | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    unstack: bool = True,
) -> list[list[int]]:
    """Return what a `Decoder` writes after each prompt: token ids, the prompt left out, a closing EOS kept.

    A row's text depends on its prompt and its key, and on its neighbours in no way but the rounding of sums. The key of
    prompt number i is `jax.random.fold_in(key, i)`, and of its token number t that folded with t.

    Two programs are compiled, for the prompts and for the loop, for each number of rows, length of a rectangle of
    prompts (`prompts.bucket_length`), `max_new_tokens`, `eos_ids` and `top_k`; temperatures and the values of `top_p`
    share them.

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
        numbers: the prompts' numbers, from which their keys come; 0, 1, 2, ... if not given.
        end_of: an answer's tokens so far -> how many of them it shall have, or None while it goes on, as
            `stop_strings.stop_at` makes it.
        batch_size: work through the prompts in groups of so many rows, the last one filled up; all at once if
            not given.
        mesh: rows are split over its devices, as in training; all processes pass the same prompts and get all answers.
        unstack: give the loop a second copy of the layers' parameters, taken apart, during the call: faster on CPUs.
            False where no copy fits.

    Raises:
        InputError: where there is no prompt, a prompt has no token or one outside of the vocabulary, it and its answer
            have more tokens than the model has learned positions, or a setting is out of its range.
    """
    model = nnx.merge(graphdef, params)
    check_settings(max_new_tokens, temperature, top_k, top_p, key, batch_size)
    check_prompts(prompts, vocab_size=model.config.vocab_size)
    check_positions(prompts, max_new_tokens=max_new_tokens, learned_positions=model.learned_positions)
    is_greedy = temperature == 0
    plan = Plan(
        models=(graphdef,),
        ending=Ending(max_new_tokens, tuple(eos_ids), pad_id),
        is_greedy=is_greedy,
        top_k=None if is_greedy else top_k,
        unstack=unstack,
        mesh=mesh,
    )
    write = partial(write_rows, plan, (params,), knobs=make_knobs(temperature, top_p), end_of=end_of)
    numbers = range(len(prompts)) if numbers is None else numbers
    keys = row_keys(jax.random.key(0) if key is None else key, numbers)
    rows = batch_size or len(prompts)
    answers = []
    for start in range(0, len(prompts), rows):
        group, own = prompts[start : start + rows], keys[start : start + rows]
        answers += write(place_group(group, own, rows=rows, pad_id=pad_id, mesh=mesh))[: len(group)]
    return answers


def row_keys(key: jax.Array, numbers: Sequence[int]) -> jax.Array:
    """Return a key for each number, whatever its neighbours are."""
    return jax.vmap(partial(jax.random.fold_in, key))(np.asarray(numbers))


def make_knobs(temperature: float, top_p: float | None) -> Knobs:
    """Return the settings of a drawing; of greedy text they have no influence."""
    no_cut = top_p is None or top_p == 1 or temperature == 0
    return Knobs(jnp.float32(temperature or 1.0), None if no_cut else jnp.float32(top_p))


def place_group(
    prompts: Sequence[Sequence[int]], keys: jax.Array, *, rows: int, pad_id: int, mesh: Mesh | None
) -> Rows:
    """Return the prompts in at least `rows` rows that the mesh's devices share evenly, the last ones unwanted."""
    divisor = 1 if mesh is None else rows_divisor(mesh)
    rows = -(-rows // divisor) * divisor
    filled = jnp.concatenate([keys, jnp.repeat(keys[:1], rows - len(keys))]) if rows > len(keys) else keys
    return place_rows(prompts, filled, rows=rows, pad_id=pad_id, mesh=mesh)


def write_rows(
    plan: Plan, params: tuple[Any, ...], rows: Rows, *, knobs: Knobs, end_of: EndOf | None = None
) -> list[list[int]]:
    """Return the tokens that each row writes."""
    room = plan.ending.max_new_tokens
    writing = begin_rows(plan, params, rows, knobs)
    segment = room if end_of is None else _SEGMENT_TOKENS
    cuts: dict[int, int] = {}
    for until in range(min(segment, room), room + segment, segment):
        writing = go_on_rows(plan, params, rows, knobs, writing, jnp.int32(min(until, room)))
        written, lengths, ended = (np.array(array) for array in (writing.written, writing.lengths, writing.ended))
        if end_of is None:
            break
        for row in set(range(len(written))) - set(cuts):
            end = end_of(written[row, : lengths[row]].tolist()) if lengths[row] else None
            if end is not None:
                cuts[row], ended[row] = end, True
        if ended.all():
            break
        writing = writing._replace(ended=jax.device_put(ended, writing.ended.sharding))
    return [written[row, : cuts.get(row, lengths[row])].tolist() for row in range(len(written))]


def check_settings(
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
