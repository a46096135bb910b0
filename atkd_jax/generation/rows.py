"""A rectangle of prompts, continued by one model, or by a student and a teacher who write each token together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.generation.decoding import Ending, Writing, begin_writing, go_on_writing
from atkd_jax.generation.prompts import left_pad
from atkd_jax.generation.sampling import greedy, sample
from atkd_jax.losses import mixed_log_probs
from atkd_jax.models import Decoder, KVCache
from atkd_jax.sharding import constrain, replicated


class Rows(NamedTuple):
    """Prompts on the devices.

    Attributes:
        tokens: int32 [B, length], at the right of their rows.
        present: bool [B, length], where they stand.
        is_wanted: bool [B], False for rows that only fill the rectangle up.
        keys: B random keys; a row's token number t is drawn with its key folded with t.
    """

    tokens: jax.Array
    present: jax.Array
    is_wanted: jax.Array
    keys: jax.Array


class Knobs(NamedTuple):
    """What may change from call to call within one program.

    Attributes:
        temperature: float32 scalar above 0; without influence on greedy text.
        top_p: float32 scalar in (0, 1], or None.
    """

    temperature: jax.Array
    top_p: jax.Array | None


class Plan(NamedTuple):
    """What a program is compiled for, besides shapes.

    Attributes:
        models: the structure of who writes; of two, the first is the student and the second the teacher.
        ending: how rows end.
        is_greedy: whether the likeliest token is taken.
        top_k: draw among so many of the likeliest tokens; None for all.
        teacher_weight: of two models, a of p~ = a p + (1 - a) q, from which every token is drawn.
        vocab_size: only ids below this are written; None for all columns of the head.
        unstack: give the loop a copy of each layer's parameters of its own, which is faster where a copy fits.
        mesh: rows are split over its devices; None where there is no mesh.
    """

    models: tuple[nnx.GraphDef[Decoder], ...]
    ending: Ending
    is_greedy: bool
    top_k: int | None
    teacher_weight: float | None = None
    vocab_size: int | None = None
    unstack: bool = True
    mesh: Mesh | None = None


def place_rows(prompts: Sequence[Sequence[int]], keys: jax.Array, *, rows: int, pad_id: int, mesh: Mesh | None) -> Rows:
    """Return the prompts, the same on every process, in `rows` rows; `keys` has a key for each row."""
    tokens, present = left_pad(prompts, rows=rows, pad_id=pad_id)
    is_wanted = np.arange(rows) < len(prompts)
    if mesh is None:
        return Rows(jnp.asarray(tokens), jnp.asarray(present), jnp.asarray(is_wanted), keys)
    whole = replicated(mesh)
    placed = [
        jax.make_array_from_callback(array.shape, whole, lambda index, array=array: array[index])
        for array in (tokens, present, is_wanted, np.asarray(jax.random.key_data(keys)))
    ]
    own_keys = jax.random.wrap_key_data(placed[3], impl=jax.random.key_impl(keys))
    return Rows(placed[0], placed[1], placed[2], own_keys)


@partial(jax.jit, static_argnames="plan")
def begin_rows(plan: Plan, params: tuple[Any, ...], rows: Rows, knobs: Knobs) -> Writing:
    """Return the rows after one pass over the prompts, with their first tokens."""
    rows = _split(plan, rows)
    positions = jnp.maximum(jnp.cumsum(rows.present, axis=1, dtype=jnp.int32) - 1, 0)
    passes = [
        nnx.merge(graphdef, own).prefill(
            rows.tokens,
            positions=positions,
            segment_ids=rows.present.astype(jnp.int32),
            max_length=rows.tokens.shape[1] + plan.ending.max_new_tokens,
        )
        for graphdef, own in zip(plan.models, params, strict=True)
    ]
    models = [nnx.merge(graphdef, own) for graphdef, own in zip(plan.models, params, strict=True)]
    logits = _combined(
        plan, knobs, [model.logits(hidden[:, -1]) for model, (hidden, _) in zip(models, passes, strict=True)]
    )
    caches = tuple(cache.unstacked() if plan.unstack else cache for _, cache in passes)
    text = None
    if any(_may_turn_anew(plan, model, rows) for model in models):
        text = jnp.pad(rows.tokens, ((0, 0), (0, plan.ending.max_new_tokens)))
    choose = partial(_chosen, plan, knobs, rows.keys)
    state = caches, text
    return _visible(plan, begin_writing(logits, state, choose=choose, ending=plan.ending, is_wanted=rows.is_wanted))


@partial(jax.jit, static_argnames="plan", donate_argnames="writing")
def go_on_rows(
    plan: Plan, params: tuple[Any, ...], rows: Rows, knobs: Knobs, writing: Writing, until: jax.Array
) -> Writing:
    """Return the rows once they have `until` tokens or have all ended."""
    rows = _split(plan, rows)
    models = [nnx.merge(graphdef, own) for graphdef, own in zip(plan.models, params, strict=True)]
    layers = [model.unstacked_layers() if plan.unstack else None for model in models]
    prompt_lengths = jnp.sum(rows.present, axis=1, dtype=jnp.int32)

    def advance(tokens: jax.Array, step: jax.Array, state: tuple[tuple[KVCache, ...], jax.Array | None]):
        caches, text = state
        positions = (prompt_lengths + step)[:, None]
        if text is not None:
            text = jax.lax.dynamic_update_slice_in_dim(text, tokens[:, None], rows.tokens.shape[1] + step, axis=1)
        logits, renewed = [], []
        for model, own_layers, cache in zip(models, layers, caches, strict=True):
            if text is not None and _may_turn_anew(plan, model, rows):
                cache = _turned_anew(plan, model, rows, text, cache, length=positions[:, 0] + 1)
            hidden, cache = model.decode(tokens[:, None], positions=positions, cache=cache, layers=own_layers)
            logits.append(model.logits(hidden[:, 0]))
            renewed.append(cache)
        return _combined(plan, knobs, logits), (tuple(renewed), text)

    choose = partial(_chosen, plan, knobs, rows.keys)
    return _visible(plan, go_on_writing(writing, advance=advance, choose=choose, ending=plan.ending, until=until))


def _may_turn_anew(plan: Plan, model: Decoder, rows: Rows) -> bool:
    """Return whether a row may grow beyond the length from which on all of it is turned by other frequencies."""
    limit = model.rotation_limit
    return limit is not None and rows.tokens.shape[1] + plan.ending.max_new_tokens > limit


def _turned_anew(
    plan: Plan, model: Decoder, rows: Rows, text: jax.Array, cache: KVCache, *, length: jax.Array
) -> KVCache:
    """Return the cache with the rows computed anew that the next token makes longer than `rotation_limit`.

    Args:
        plan: what the program is compiled for.
        model: whose cache it is.
        rows: the prompts.
        text: int32 [B, slots], prompts and what was written after them, the next token included.
        cache: of the tokens before the next one.
        length: int [B], of each row with the next token.
    """
    limit = model.rotation_limit
    assert limit is not None  # the caller's own check
    crosses = length == limit + 1

    def anew(cache: KVCache) -> KVCache:
        slots = jnp.arange(text.shape[1])[None]
        prompt = rows.tokens.shape[1]
        present = jnp.pad(rows.present, ((0, 0), (0, text.shape[1] - prompt))) | (slots >= prompt)
        present &= slots <= cache.length
        positions = jnp.maximum(jnp.cumsum(present, axis=1, dtype=jnp.int32) - 1, 0)
        segments = present.astype(jnp.int32)
        fresh = model.prefill(text, positions=positions, segment_ids=segments, max_length=text.shape[1])[1]
        fresh = fresh.unstacked() if plan.unstack else fresh
        # A row's axis is the first of one layer's array, and the second of a stack.
        where = crosses.reshape((-1, 1, 1, 1) if plan.unstack else (1, -1, 1, 1, 1))
        key, value = jax.tree.map(
            lambda new, old: jnp.where(where, new, old), (fresh.key, fresh.value), (cache.key, cache.value)
        )
        return dataclasses.replace(cache, key=key, value=value)

    return jax.lax.cond(jnp.any(crosses), anew, lambda cache: cache, cache)


def _split(plan: Plan, rows: Rows) -> Rows:
    """Return the rows split over the devices, which all that comes of them follows."""
    tokens, present = (constrain(array, plan.mesh, "rows", None) for array in (rows.tokens, rows.present))
    return rows._replace(tokens=tokens, present=present, is_wanted=constrain(rows.is_wanted, plan.mesh, "rows"))


def _combined(plan: Plan, knobs: Knobs, logits: list[jax.Array]) -> jax.Array:
    """Return what tokens are chosen by: the one model's logits, or log p~ of both at the temperature."""
    if plan.vocab_size is not None:
        logits = [own[:, : plan.vocab_size] for own in logits]
    if plan.teacher_weight is None:
        return logits[0]
    student, teacher = (jax.nn.log_softmax(own / knobs.temperature) for own in logits)
    return mixed_log_probs(student_log_probs=student, teacher_log_probs=teacher, teacher_weight=plan.teacher_weight)


def _chosen(plan: Plan, knobs: Knobs, keys: jax.Array, logits: jax.Array, step: jax.Array) -> jax.Array:
    if plan.is_greedy:
        return greedy(logits)
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
    temperature = knobs.temperature if plan.teacher_weight is None else 1.0
    return sample(logits, step_keys, temperature=temperature, top_k=plan.top_k, top_p=knobs.top_p)


def _visible(plan: Plan, writing: Writing) -> Writing:
    """Return the same with the text itself whole on every device, so that every process can read it."""
    if plan.mesh is None:
        return writing
    whole = replicated(plan.mesh)
    written, ended, lengths = (
        jax.lax.with_sharding_constraint(array, whole) for array in (writing.written, writing.ended, writing.lengths)
    )
    return writing._replace(written=written, ended=ended, lengths=lengths)
