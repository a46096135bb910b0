"""The functions of `log_space`, from hidden states and heads, with derivatives in closed form.

Each returns a few numbers per token, and its derivative takes any cotangents of them. Gates, weights and means are
therefore ordinary JAX outside of them. Gradients are by the first model, the student; the teacher is constant.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses.pointwise import Terms
from atkd_jax.losses.vocabulary_blocks import Model, Plan, Rest, fold, gradient, is_column, unseen, varying_axes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def blocked_margin(plan: Plan, model: Model, targets: jax.Array) -> jax.Array:
    """Returns `log_space.target_margin` of every token, float32 `[tokens]`."""
    return _rest(plan, model, targets).margin()


def _rest(plan: Plan, model: Model, targets: jax.Array) -> Rest:
    def block(_, rest: Rest, logits, column) -> Rest:
        return rest.updated(logits[0], column)[0]

    def finish(rest: Rest) -> Rest:
        return rest if plan.axis is None else rest.over_devices(plan.axis)

    return fold(plan, (model,), targets, unseen, block, finish)


def _margin_forward(plan: Plan, model: Model, targets: jax.Array):
    rest = _rest(plan, model, targets)
    return rest.margin(), (model, targets, rest)


def _margin_backward(plan: Plan, kept, cotangent: jax.Array):
    model, targets, rest = kept

    def slope(tokens, logits, column: jax.Array) -> jax.Array:
        _, rest, cotangent = tokens
        return cotangent[:, None] * jnp.where(is_column(logits[0], column), 1, -jnp.exp(rest.log_probs(logits[0])))

    return gradient(plan, (model,), (targets, rest, _whole(plan, model, cotangent)), slope), None


blocked_margin.defvjp(_margin_forward, _margin_backward)


class _Facts(NamedTuple):
    """Both models' rest, and sum_j exp(first_j) (first_j - second_j) of their shifted logits, each `[tokens]`."""

    student: Rest
    teacher: Rest
    gap: jax.Array

    def divergence(self, student_first: bool) -> jax.Array:
        first, second = _ordered(student_first, self.student, self.teacher)
        mean_gap = self.gap / jnp.where(first.total != 0, first.total, 1)
        divergence = mean_gap - first.log_total() + second.log_total()
        return jnp.maximum(jnp.where(first.total != 0, divergence, 0), 0)

    def values(self, student_first: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        return self.divergence(student_first), self.student.margin(), self.teacher.margin()


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def blocked_terms(
    plan: Plan, student_first: bool, student: Model, teacher: Model, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `(divergence, student_margin, teacher_margin)`, float32 `[tokens]` each.

    The divergence is `log_space.relative_entropy` of the rests, without the target, from the teacher's to the student's
    unless `student_first`. With the margins all of `decoupled_terms` is known. A target of -1 leaves no word out, and
    the divergence is that of the whole distributions.
    """
    return _facts(plan, student_first, student, teacher, targets).values(student_first)


def _facts(plan: Plan, student_first: bool, student: Model, teacher: Model, targets: jax.Array) -> _Facts:
    def block(_, facts: _Facts, logits, column) -> _Facts:
        student, student_shifted = facts.student.updated(logits[0], column)
        teacher, teacher_shifted = facts.teacher.updated(logits[1], column)
        first, second = _ordered(student_first, student_shifted, teacher_shifted)
        weight = jnp.exp(first)
        gap = jnp.sum(jnp.where(weight > 0, weight * (first - second), 0), axis=-1)
        return _Facts(student, teacher, _moved_gap(student_first, facts, student, teacher) + gap)

    def finish(facts: _Facts) -> _Facts:
        if plan.axis is None:
            return facts
        student, teacher = facts.student.over_devices(plan.axis), facts.teacher.over_devices(plan.axis)
        return _Facts(student, teacher, jax.lax.psum(_moved_gap(student_first, facts, student, teacher), plan.axis))

    def start(targets: jax.Array) -> _Facts:
        return _Facts(unseen(targets), unseen(targets), jnp.zeros(targets.shape, jnp.float32))

    return fold(plan, (student, teacher), targets, start, block, finish)


def _moved_gap(student_first: bool, facts: _Facts, student: Rest, teacher: Rest) -> jax.Array:
    """Returns the gap of `facts` as it is with the shifts of the new `student` and `teacher`."""
    first, second = _ordered(student_first, facts.student, facts.teacher)
    new_first, new_second = _ordered(student_first, student, teacher)
    lowered = (first.shift() - new_first.shift()) - (second.shift() - new_second.shift())
    kept = jnp.exp(first.largest - new_first.shift())
    return jnp.where(first.total != 0, kept * (facts.gap + first.total * lowered), 0)


def _terms_forward(plan: Plan, student_first: bool, student: Model, teacher: Model, targets: jax.Array):
    facts = _facts(plan, student_first, student, teacher, targets)
    return facts.values(student_first), (student, teacher, targets, facts)


def _terms_backward(plan: Plan, student_first: bool, kept, cotangents):
    student, teacher, targets, facts = kept
    by_divergence, by_margin = (_whole(plan, student, cotangent) for cotangent in cotangents[:2])

    def slope(tokens, logits, column: jax.Array) -> jax.Array:
        _, facts, by_divergence, by_margin = tokens
        student_log_probs = facts.student.log_probs(logits[0])
        teacher_log_probs = facts.teacher.log_probs(logits[1])
        student = jnp.exp(student_log_probs)
        if student_first:
            divergence = facts.divergence(student_first)[:, None]
            has_slope = (student > 0) & jnp.isfinite(divergence)
            change = student * jnp.where(has_slope, student_log_probs - teacher_log_probs - divergence, 0)
        else:
            change = jnp.where(facts.teacher.total[:, None] != 0, student - jnp.exp(teacher_log_probs), 0)
        by_margin = by_margin[:, None]
        return jnp.where(is_column(logits[0], column), by_margin, by_divergence[:, None] * change - by_margin * student)

    tokens = targets, facts, by_divergence, by_margin
    return gradient(plan, (student, teacher), tokens, slope), None, None


blocked_terms.defvjp(_terms_forward, _terms_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def blocked_divergence(plan: Plan, terms: Terms, student: Model, teacher: Model) -> jax.Array:
    """Returns the sum over the vocabulary of `terms(teacher's log p, student's log q)`, float32 `[tokens]`.

    The vocabulary is gone over twice, since the terms need the normalised distributions.
    """
    return _divergence_facts(plan, terms, student, teacher)[2]


def _divergence_facts(plan: Plan, terms: Terms, student: Model, teacher: Model):
    """Returns both models' distributions, the divergence, and the sum of its derivatives by the student's log q."""
    targets = jnp.full(student.hidden.shape[:1], -1, jnp.int32)
    rests = _rest(_of_model(plan, 0), student, targets), _rest(_of_model(plan, 1), teacher, targets)

    def block(tokens, sums, logits, _):
        _, rests = tokens
        values, slopes = _values_and_slopes(terms, rests, logits)
        return sums[0] + jnp.sum(values, axis=-1), sums[1] + jnp.sum(slopes, axis=-1)

    def start(tokens):
        zero = jnp.zeros(tokens[0].shape, jnp.float32)
        return zero, zero

    def finish(sums):
        divergence, total_slope = sums if plan.axis is None else jax.lax.psum(sums, plan.axis)
        return jnp.maximum(divergence, 0), total_slope

    divergence, total_slope = fold(plan, (student, teacher), (targets, rests), start, block, finish)
    return targets, rests, divergence, total_slope


def _values_and_slopes(terms: Terms, rests: tuple[Rest, Rest], logits):
    student, teacher = (jnp.maximum(rest.log_probs(x), -1e30) for rest, x in zip(rests, logits, strict=True))
    return jax.jvp(lambda student: terms(teacher, student), (student,), (jnp.ones_like(student),))


def _divergence_forward(plan: Plan, terms: Terms, student: Model, teacher: Model):
    targets, rests, divergence, total_slope = _divergence_facts(plan, terms, student, teacher)
    return divergence, (student, teacher, targets, rests, total_slope)


def _divergence_backward(plan: Plan, terms: Terms, kept, cotangent: jax.Array):
    student, teacher, targets, rests, total_slope = kept

    def slope(tokens, logits, _) -> jax.Array:
        _, rests, total_slope, cotangent = tokens
        _, slopes = _values_and_slopes(terms, rests, logits)
        probabilities = jnp.exp(rests[0].log_probs(logits[0]))
        return cotangent[:, None] * (slopes - probabilities * total_slope[:, None])

    tokens = targets, rests, total_slope, _whole(plan, student, cotangent)
    return gradient(plan, (student, teacher), tokens, slope), None


blocked_divergence.defvjp(_divergence_forward, _divergence_backward)


def _of_model(plan: Plan, number: int) -> Plan:
    return replace(plan, softcaps=plan.softcaps[number : number + 1])


def _ordered(student_first: bool, student, teacher):
    return (student, teacher) if student_first else (teacher, student)


def _whole(plan: Plan, model: Model, cotangent: jax.Array) -> jax.Array:
    """Returns the cotangent of a result that all devices of `plan.axis` share.

    Where `shard_map` does not check along which axes values vary, it gives each device a share of it.
    """
    if plan.axis is None or plan.axis in varying_axes(model):
        return cotangent
    return jax.lax.psum(cotangent, plan.axis)
