"""The one primitive under the linear losses: what a pass over the vocabulary finds of each token, with derivatives.

`blocked` takes any cotangents of what it finds, so that gates, weights and means are ordinary JAX outside of it; it
forms the logits once going forward and again going backward. `blocked_sum` is for weights that are known beforehand:
it forms the gradient while it goes forward, chunk by chunk. Both ask the same questions
(`Question`) of the same facts, and have the same slope. Gradients are by the first model, the student; the teacher is
constant.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses.rest import Rest, is_column, unseen
from atkd_jax.losses.token_terms import Found, Question
from atkd_jax.losses.varying import whole_cotangent
from atkd_jax.losses.vocabulary_blocks import Block, Chunk, Counted, Model, Plan, no_gradient, over_chunks

Models = tuple[Model, ...]
Weights = dict[str, jax.Array]


class _Facts(NamedTuple):
    """Of each token: both models' rest, and sums over the vocabulary that the divergence needs.

    Attributes:
      student: the student's rest.
      teacher: the teacher's, or None.
      plain: the student's at temperature 1, or None.
      sums: of a KL, sum_j exp(first_j) (first_j - second_j) of the shifted logits; of another divergence, itself and
        the sum of its derivatives by the student's log probabilities.
    """

    student: Rest
    teacher: Rest | None
    plain: Rest | None
    sums: tuple[jax.Array, ...]


def blocked(plan: Plan, question: Question, models: Models, targets: jax.Array, counted: Counted) -> Found:
    """Returns what is found of every token.

    Args:
      plan: how the work is cut.
      question: what is asked.
      models: the student and, if the question is of a divergence, the teacher.
      targets: int32 `[tokens]`; -1 leaves no word out.
      counted: which tokens count; what is found of the others has no meaning.
    """
    return _blocked(plan, question, models, targets, counted)


def _blocked_primal(plan: Plan, question: Question, models: Models, targets: jax.Array, counted: Counted) -> Found:
    return _forward(replace(plan, kept_columns=0), question, models, targets, counted)[0]


def _forward(plan: Plan, question: Question, models: Models, targets: jax.Array, counted: Counted):
    def chunk(nothing, chunk: Chunk, _):
        facts, chunk = _facts(question, chunk)
        return nothing, (facts, chunk.kept)

    _, (facts, kept) = over_chunks(plan, chunk, (), models, counted, (targets,))
    return _found(question, facts), (models, targets, counted, facts, kept)


def _backward(plan: Plan, question: Question, residuals, cotangents: Found):
    models, targets, counted, facts, kept = residuals
    cotangents = whole_cotangent(cotangents, plan.vocab_axis, models)

    def chunk(totals: Model, chunk: Chunk, tokens):
        _, facts, kept, cotangents = tokens
        return _gradient(question, facts, cotangents, replace(chunk, kept=kept), totals)

    tokens = targets, facts, kept, cotangents
    by_first = as_given(*over_chunks(plan, chunk, no_gradient(models[0]), models, counted, tokens), models[0])
    return (by_first, *(None for _ in models[1:])), None, None


_blocked: Any = jax.custom_vjp(_blocked_primal, nondiff_argnums=(0, 1))
_blocked.defvjp(_forward, _backward)


def blocked_sum(
    plan: Plan, question: Question, models: Models, targets: jax.Array, counted: Counted, weights: Weights
) -> tuple[jax.Array, Found]:
    """Returns the sum of weight * term over the question's terms and the counted tokens, and what was found.

    Args:
      plan: how the work is cut.
      question: what is asked.
      models: the student and, if the question is of a divergence, the teacher.
      targets: int32 `[tokens]`.
      counted: which tokens count.
      weights: by the names of `Question.terms`, float32 `[tokens]`, 0 where a token does not count. A weight of 0 drops
        a term even where it is inf.

    Gradient: of the sum alone, by the first model and the weights.
    """
    return _blocked_sum(plan, question, models, targets, counted, weights)


def _sum_primal(plan: Plan, question: Question, models: Models, targets, counted: Counted, weights: Weights):
    found = blocked(plan, question, models, targets, counted)
    return question.weighted(found, weights), found


def _sum_forward(plan: Plan, question: Question, models: Models, targets, counted: Counted, weights: Weights):
    def chunk(totals: Model, chunk: Chunk, tokens):
        _, weights = tokens
        facts, chunk = _facts(question, chunk)
        found = _found(question, facts)
        by_found, by_weights = jax.grad(question.weighted, argnums=(0, 1))(found, weights)
        totals, by_hidden = _gradient(question, facts, by_found, chunk, totals)
        return totals, (found, by_weights, by_hidden)

    totals, results = over_chunks(plan, chunk, no_gradient(models[0]), models, counted, (targets, weights))
    found, by_weights, by_hidden = results
    by_first = as_given(totals, by_hidden, models[0])
    return (question.weighted(found, weights), found), (by_first, by_weights, models[1:])


def _sum_backward(plan: Plan, question: Question, residuals, cotangents):
    by_first, by_weights, others = residuals
    share = cotangents[0]
    scale = whole_cotangent(share, plan.vocab_axis, by_first)
    by_first = jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), by_first)
    by_weights = jax.tree.map(lambda gradient: gradient * share, by_weights)
    return (by_first, *(None for _ in others)), None, None, by_weights


_blocked_sum: Any = jax.custom_vjp(_sum_primal, nondiff_argnums=(0, 1))
_blocked_sum.defvjp(_sum_forward, _sum_backward)


def as_given(totals: Model, by_hidden: jax.Array, model: Model) -> Model:
    """Returns the derivatives by head and bias with those by the hidden states, in the type of the latter."""
    return totals._replace(hidden=by_hidden.astype(model.hidden.dtype))


def _facts(question: Question, chunk: Chunk) -> tuple[_Facts, Chunk]:
    """Returns a chunk's facts, and the chunk, with the logits that its plan keeps."""
    plan, direction = chunk.plan, question.direction()
    if plan.implementation == "pallas":
        # Imported where it is used: Pallas brings more than jax along.
        from atkd_jax.losses import linear_pallas

        student, teacher, gap = linear_pallas.statistics(*_for_kernel(question, chunk))
        return _Facts(student, teacher, None, (gap,)), chunk
    has_teacher = question.divergence is not None

    def step(facts: _Facts, block: Block) -> _Facts:
        student, student_shifted = facts.student.updated(block.logits[0], block.column)
        plain = facts.plain
        if plain is not None:
            plain, _ = plain.updated(block.logits[0] / plan.inverse_temperature, block.column)
        if facts.teacher is None:
            return _Facts(student, None, plain, ())
        teacher, teacher_shifted = facts.teacher.updated(block.logits[1], block.column)
        after = _Facts(student, teacher, plain, ())
        if direction is None:
            return after
        first, second = _ordered(direction, student_shifted, teacher_shifted)
        weight = jnp.exp(first)
        gap = jnp.sum(jnp.where(weight > 0, weight * (first - second), 0), axis=-1)
        return after._replace(sums=(_moved_gap(direction, facts, after) + gap,))

    none_seen = unseen(chunk.targets)
    sums = () if direction is None else (jnp.zeros(chunk.targets.shape, jnp.float32),)
    start = _Facts(none_seen, none_seen if has_teacher else None, none_seen if question.plain else None, sums)
    facts, chunk = chunk.sweep_and_keep(step, start)
    if plan.vocab_axis is not None:
        facts = _over_devices(direction, facts, plan.vocab_axis)
    if has_teacher and direction is None:
        facts = facts._replace(sums=_pointwise_sums(question, facts, chunk))
    return facts, chunk


def _gradient(question: Question, facts: _Facts, by: Found, chunk: Chunk, totals: Model) -> tuple[Model, jax.Array]:
    """Returns what `Chunk.gradient` does, given the derivatives by what was found."""
    if chunk.plan.implementation != "pallas":
        return chunk.gradient(partial(_slope, chunk.plan, question, facts, by), totals)
    from atkd_jax.losses import linear_pallas

    student, teacher = facts.student, facts.teacher
    assert teacher is not None
    by_divergence = by.divergence
    if question.direction() == "forward":
        by_divergence = jnp.where(teacher.total != 0, by_divergence, 0)
    logs = student.shift(), student.log_total(), teacher.shift(), teacher.log_total()
    by_token = (*logs, _divergence(question, facts), by.student_margin, by_divergence)
    by_head, by_hidden = linear_pallas.gradient(*_for_kernel(question, chunk), by_token, totals.head)
    return totals._replace(head=by_head), by_hidden


def _for_kernel(question: Question, chunk: Chunk):
    direction, plan, models = question.direction(), chunk.plan, chunk.models
    assert direction is not None
    hidden, heads = (model.hidden for model in models), (model.head for model in models)
    return direction, plan.inverse_temperature, plan.vocab_size, tuple(hidden), tuple(heads), chunk.targets


def _over_devices(direction: str | None, facts: _Facts, axis: str) -> _Facts:
    student, teacher, plain = (None if rest is None else rest.over_devices(axis) for rest in facts[:3])
    after = facts._replace(student=student, teacher=teacher, plain=plain, sums=())
    if direction is None:
        return after
    return after._replace(sums=(jax.lax.psum(_moved_gap(direction, facts, after), axis),))


def _moved_gap(direction: str, facts: _Facts, after: _Facts) -> jax.Array:
    """Returns the gap of `facts` as it is with the shifts of `after`."""
    first, second = _ordered_rests(direction, facts)
    new_first, new_second = _ordered_rests(direction, after)
    lowered = (first.shift() - new_first.shift()) - (second.shift() - new_second.shift())
    kept = jnp.exp(first.largest - new_first.shift())
    return jnp.where(first.total != 0, kept * (facts.sums[0] + first.total * lowered), 0)


def _pointwise_sums(question: Question, facts: _Facts, chunk: Chunk) -> tuple[jax.Array, ...]:
    def step(sums, block: Block):
        values, slopes = _values_and_slopes(question, facts, block)
        if question.decoupled:
            values, slopes = (jnp.where(is_column(values, block.column), 0, each) for each in (values, slopes))
        return sums[0] + jnp.sum(values, axis=-1), sums[1] + jnp.sum(slopes, axis=-1)

    zero = jnp.zeros(chunk.targets.shape, jnp.float32)
    divergence, slope = chunk.sweep(step, (zero, zero))
    if chunk.plan.vocab_axis is not None:
        divergence, slope = jax.lax.psum((divergence, slope), chunk.plan.vocab_axis)
    return jnp.maximum(divergence, 0), slope


def _values_and_slopes(question: Question, facts: _Facts, block: Block) -> tuple[jax.Array, jax.Array]:
    """Returns the terms of a divergence that is no KL, and their derivatives by the student's log probabilities."""
    rests = _compared(question, facts)
    student, teacher = (jnp.maximum(rest.log_probs(x), -1e30) for rest, x in zip(rests, block.logits, strict=True))
    terms = question.pointwise()
    return jax.jvp(lambda student: terms(teacher, student), (student,), (jnp.ones_like(student),))


def _compared(question: Question, facts: _Facts) -> tuple[Rest, Rest]:
    assert facts.teacher is not None
    if question.of_rest():
        return facts.student, facts.teacher
    return facts.student.whole(), facts.teacher.whole()


def _comparable(question: Question, facts: _Facts) -> jax.Array:
    """Returns where both distributions have any mass: without a rest in one of the models there is no diversity."""
    student, teacher = _compared(question, facts)
    return (student.total != 0) & (teacher.total != 0)


def _found(question: Question, facts: _Facts) -> Found:
    zero = jnp.zeros_like(facts.student.total)
    student, teacher = facts.student, facts.teacher
    teacher_margin = zero if teacher is None else teacher.margin()
    plain_margin = zero if facts.plain is None else facts.plain.margin()
    return Found(_divergence(question, facts), student.margin(), teacher_margin, plain_margin)


def _divergence(question: Question, facts: _Facts) -> jax.Array:
    direction = question.direction()
    if facts.teacher is None:
        return jnp.zeros_like(facts.student.total)
    if direction is None:
        return jnp.where(_comparable(question, facts), facts.sums[0], 0)
    first, second = _ordered_rests(direction, facts)
    mean_gap = facts.sums[0] / jnp.where(first.total != 0, first.total, 1)
    divergence = mean_gap - first.log_total() + second.log_total()
    # Rounding can leave a hair below 0 where the two agree.
    return jnp.maximum(jnp.where(first.total != 0, divergence, 0), 0)


def _slope(plan: Plan, question: Question, facts: _Facts, by: Found, block: Block) -> jax.Array:
    """Returns the derivative by a block of the student's logits, given those by what was found."""
    logits, at_target = block.logits[0], is_column(block.logits[0], block.column)
    log_q = facts.student.log_probs(logits)
    q = jnp.exp(log_q)
    by_margin = by.student_margin[:, None]
    slope = jnp.where(at_target, by_margin, -by_margin * q)
    if facts.plain is not None:
        plain = jnp.exp(facts.plain.log_probs(logits / plan.inverse_temperature))
        by_plain = by.plain_margin[:, None] / plan.inverse_temperature
        slope = slope + jnp.where(at_target, by_plain, -by_plain * plain)
    if facts.teacher is None:
        return slope
    change = by.divergence[:, None] * _change(question, facts, block, log_q, q)
    return slope + (jnp.where(at_target, 0, change) if question.of_rest() else change)


def _change(question: Question, facts: _Facts, block: Block, log_q: jax.Array, q: jax.Array) -> jax.Array:
    """Returns the divergence's derivative by a block of the student's logits."""
    assert facts.teacher is not None
    direction = question.direction()
    log_p = facts.teacher.log_probs(block.logits[1])
    if direction == "forward":
        return jnp.where(facts.teacher.total[:, None] != 0, q - jnp.exp(log_p), 0)
    if direction == "reverse":
        divergence = _divergence(question, facts)[:, None]
        has_slope = (q > 0) & jnp.isfinite(divergence)
        return q * jnp.where(has_slope, log_q - log_p - divergence, 0)
    _, slopes = _values_and_slopes(question, facts, block)
    student = _compared(question, facts)[0]
    change = slopes - jnp.exp(student.log_probs(block.logits[0])) * facts.sums[1][:, None]
    return jnp.where(_comparable(question, facts)[:, None], change, 0)


def _ordered(direction: str, student, teacher):
    return (student, teacher) if direction == "reverse" else (teacher, student)


def _ordered_rests(direction: str, facts: _Facts) -> tuple[Rest, Rest]:
    assert facts.teacher is not None
    return _ordered(direction, facts.student, facts.teacher)
