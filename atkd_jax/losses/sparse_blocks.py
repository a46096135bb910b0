"""The student's view of a sparse signal's words, from hidden states and a head, a block of the vocabulary at a time.

The counterpart of `blocked` where the teacher is a signal: one sweep keeps what `sparse_terms.Student` is made of, the
listed words' logits are picked up where their block is met, and the slope puts their derivatives back in place. No
column of the head is gathered, and nothing of the size `[tokens, vocab]` is formed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses.blocked import Weights, as_given
from atkd_jax.losses.rest import Rest, is_column, unseen
from atkd_jax.losses.sparse import SparseSignal
from atkd_jax.losses.sparse_terms import SparseQuestion, Student
from atkd_jax.losses.token_terms import Found
from atkd_jax.losses.varying import whole_cotangent
from atkd_jax.losses.vocabulary_blocks import Block, Chunk, Counted, Model, Plan, no_gradient, over_chunks


class _Facts(NamedTuple):
    """Of each token.

    Attributes:
      rest: the student's distribution without the target.
      outside: that without the listed words too, or None where nobody asks.
      listed: `[tokens, k]`, the logits of the listed words; -inf where unused.
    """

    rest: Rest
    outside: Rest | None
    listed: jax.Array


def listed_student(
    plan: Plan, asks: SparseQuestion, model: Model, targets: jax.Array, ids: jax.Array, counted: Counted
) -> Student:
    """Returns the student's view of every token; that of uncounted ones has no meaning.

    Args:
      plan: how the work is cut.
      asks: what is asked.
      model: the student's way to its logits.
      targets: int32 `[tokens]`.
      ids: int32 `[tokens, k]`, distinct, as `SparseQuestion.listed_ids` gives them.
      counted: which tokens count.

    Gradient: by the model, of first order and in reverse mode.
    """
    return _listed_student(plan, asks, model, targets, ids, counted)


def _primal(plan: Plan, asks: SparseQuestion, model: Model, targets, ids, counted: Counted) -> Student:
    return _forward(replace(plan, kept_columns=0), asks, model, targets, ids, counted)[0]


def _forward(plan: Plan, asks: SparseQuestion, model: Model, targets, ids, counted: Counted):
    def chunk(nothing, chunk: Chunk, tokens):
        facts, chunk = _facts(asks, chunk, tokens[1])
        return nothing, (facts, chunk.kept)

    _, (facts, kept) = over_chunks(plan, chunk, (), (model,), counted, (targets, ids))
    return _student(facts), (model, targets, ids, counted, facts, kept)


def _backward(plan: Plan, asks: SparseQuestion, residuals, cotangents: Student):
    model, targets, ids, counted, facts, kept = residuals
    cotangents = whole_cotangent(cotangents, plan.vocab_axis, model)

    def chunk(totals: Model, chunk: Chunk, tokens):
        _, ids, facts, kept, cotangents = tokens
        chunk = replace(chunk, kept=kept)
        return chunk.gradient(partial(_slope, ids, facts, cotangents, chunk), totals)

    tokens = targets, ids, facts, kept, cotangents
    by_model = as_given(*over_chunks(plan, chunk, no_gradient(model), (model,), counted, tokens), model)
    return by_model, None, None, None


_listed_student: Any = jax.custom_vjp(_primal, nondiff_argnums=(0, 1))
_listed_student.defvjp(_forward, _backward)


def listed_sum(
    plan: Plan,
    asks: SparseQuestion,
    model: Model,
    targets: jax.Array,
    signal: SparseSignal,
    ids: jax.Array,
    counted: Counted,
    weights: Weights,
) -> tuple[jax.Array, Found]:
    """Returns the sum of weight * term over the question's terms and the counted tokens, and what was found.

    The gradient is formed going forward, as `blocked_sum` does.

    Args:
      plan: how the work is cut.
      asks: what is asked.
      model: the student's way to its logits.
      targets: int32 `[tokens]`.
      signal: of the teacher, `[tokens, ...]`.
      ids: int32 `[tokens, k]`.
      counted: which tokens count.
      weights: by the names of `Question.terms`, float32 `[tokens]`, 0 where a token does not count.

    Gradient: of the sum alone, by the model and the weights.
    """
    return _listed_sum(plan, asks, model, targets, signal, ids, counted, weights)


def _sum_primal(
    plan: Plan, asks: SparseQuestion, model: Model, targets, signal, ids, counted: Counted, weights: Weights
):
    found = asks.found(signal, ids, listed_student(plan, asks, model, targets, ids, counted))
    return asks.question.weighted(found, weights), found


def _sum_forward(
    plan: Plan, asks: SparseQuestion, model: Model, targets, signal, ids, counted: Counted, weights: Weights
):
    def chunk(totals: Model, chunk: Chunk, tokens):
        _, ids, signal, weights = tokens
        facts, chunk = _facts(asks, chunk, ids)
        student = _student(facts)

        def total(student: Student, weights: Weights):
            found = asks.found(signal, ids, student)
            return asks.question.weighted(found, weights), found

        (by_student, by_weights), found = jax.grad(total, argnums=(0, 1), has_aux=True)(student, weights)
        totals, by_hidden = chunk.gradient(partial(_slope, ids, facts, by_student, chunk), totals)
        return totals, (found, by_weights, by_hidden)

    tokens = targets, ids, signal, weights
    totals, results = over_chunks(plan, chunk, no_gradient(model), (model,), counted, tokens)
    found, by_weights, by_hidden = results
    by_model = as_given(totals, by_hidden, model)
    return (asks.question.weighted(found, weights), found), (by_model, by_weights)


def _sum_backward(plan: Plan, asks: SparseQuestion, residuals, cotangents):
    by_model, by_weights = residuals
    share = cotangents[0]
    scale = whole_cotangent(share, plan.vocab_axis, by_model)
    by_model = jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), by_model)
    by_weights = jax.tree.map(lambda gradient: gradient * share, by_weights)
    return by_model, None, None, None, None, by_weights


_listed_sum: Any = jax.custom_vjp(_sum_primal, nondiff_argnums=(0, 1))
_listed_sum.defvjp(_sum_forward, _sum_backward)


def _facts(asks: SparseQuestion, chunk: Chunk, ids: jax.Array) -> tuple[_Facts, Chunk]:
    with_outside = asks.needs_outside()

    def step(facts: _Facts, block: Block) -> _Facts:
        logits, places, is_here = _places(chunk, ids, block)
        met = jnp.take_along_axis(logits, jnp.where(is_here, places, 0), axis=-1, mode="promise_in_bounds")
        listed = jnp.where(is_here, met, facts.listed)
        if with_outside:
            assert facts.outside is not None
            others = jnp.where(_is_listed(logits, places, is_here), -jnp.inf, logits)
            return _Facts(facts.rest, facts.outside.updated(others, block.column)[0], listed)
        return _Facts(facts.rest.updated(logits, block.column)[0], None, listed)

    none_seen = unseen(chunk.targets)
    start = _Facts(none_seen, none_seen if with_outside else None, jnp.full(ids.shape, -jnp.inf, jnp.float32))
    facts, chunk = chunk.sweep_and_keep(step, start)
    axis = chunk.plan.vocab_axis
    if axis is not None:
        swept = "outside" if with_outside else "rest"
        whole = getattr(facts, swept).over_devices(axis)
        facts = facts._replace(**{swept: whole, "listed": jax.lax.pmax(facts.listed, axis)})
    if with_outside:
        assert facts.outside is not None
        facts = facts._replace(rest=_with_listed(facts.outside, facts.listed))
    return facts, chunk


def _places(chunk: Chunk, ids: jax.Array, block: Block) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a block's logits, where in it the listed words stand, and which of them stand in it."""
    logits = block.logits[0]
    places = ids - (chunk.targets - block.column)[:, None]
    return logits, places, (ids >= 0) & (places >= 0) & (places < logits.shape[-1])


def _scattered(empty: jax.Array, places: jax.Array, is_here: jax.Array):
    """Returns the places of a block, to be written to; an unused one is beyond it and is dropped."""
    rows = jnp.arange(empty.shape[0])[:, None]
    return empty.at[rows, jnp.where(is_here, places, empty.shape[-1])]


def _is_listed(logits: jax.Array, places: jax.Array, is_here: jax.Array) -> jax.Array:
    return _scattered(jnp.zeros(logits.shape, bool), places, is_here).set(True, mode="drop")


def _with_listed(outside: Rest, listed: jax.Array) -> Rest:
    """Returns the distribution of the listed words, which are distinct, and the others together."""
    largest = jnp.maximum(outside.largest, jnp.max(listed, axis=-1, initial=-jnp.inf))
    after = outside._replace(largest=largest)
    shift = after.shift()
    of_listed = jnp.sum(jnp.exp(listed - shift[:, None]), axis=-1)
    return after._replace(total=outside.total * jnp.exp(outside.largest - shift) + of_listed)


def _student(facts: _Facts) -> Student:
    listed = facts.rest.log_probs(facts.listed)
    outside = jnp.full_like(facts.rest.total, -jnp.inf)
    if facts.outside is not None:
        relative = (facts.outside.shift() - facts.rest.shift()) + (facts.outside.log_total() - facts.rest.log_total())
        outside = jnp.where(facts.outside.total != 0, relative, -jnp.inf)
    return Student(facts.rest.margin(), listed, outside)


def _slope(ids: jax.Array, facts: _Facts, by: Student, chunk: Chunk, block: Block) -> jax.Array:
    """Returns the derivative by a block of the student's logits, given those by its view."""
    logits, places, is_here = _places(chunk, ids, block)
    at_target = is_column(logits, block.column)
    by_listed = jnp.where(ids >= 0, by.listed, 0)
    by_all = by.margin + jnp.sum(by_listed, axis=-1)
    if facts.outside is not None:
        by_all = by_all + by.outside
    slope = jnp.where(at_target, by.margin[:, None], -by_all[:, None] * jnp.exp(facts.rest.log_probs(logits)))
    if facts.outside is not None:
        left_out = at_target | _is_listed(logits, places, is_here)
        share = by.outside[:, None] * jnp.exp(facts.outside.log_probs(logits))
        slope = slope + jnp.where(left_out, 0, share)
    return _scattered(slope, places, is_here).add(by_listed, mode="drop")
