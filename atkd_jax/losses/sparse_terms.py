"""What a sparse signal and the student's view of its words make of a token: the terms of every sparse loss.

The student is asked for three things alone (`Student`): its margin of the target, its log probabilities of the listed
words within the non-target distribution q^, and the mass of q^ outside of them. The rest is arithmetic on `[..., k]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise
from atkd_jax.losses.log_space import log_probabilities, normalized, relative_entropy, target_margin, without_target
from atkd_jax.losses.sparse import RestSample, SparseSignal, TailSample, TopKSignal, kind_of, sparse_form
from atkd_jax.losses.token_terms import Found, Question


class Student(NamedTuple):
    """What the student says of a token's words.

    Attributes:
      margin: `[...]`, `log_space.target_margin`.
      listed: `[..., k]`, log q^ of the listed words; -inf where none is listed.
      outside: `[...]`, the log of the mass of q^ on all other words but the target.
    """

    margin: jax.Array
    listed: jax.Array
    outside: jax.Array


@dataclass(frozen=True)
class SparseQuestion:
    """What is asked of every token, and of which kind of signal. Static.

    Attributes:
      question: as of whole distributions.
      kind: of the signal.
      vocab_size: how many words there are.
      has_rest: False where only the target is asked about.
    """

    question: Question
    kind: str
    vocab_size: int
    has_rest: bool = True

    def is_sampled(self) -> bool:
        """Returns whether expectations are of draws, and not sums over cells."""
        is_forward = self.question.direction() == "forward"
        return self.has_rest and (self.kind == "rest_sample" or (self.kind == "top_k_tail" and is_forward))

    def needs_outside(self) -> bool:
        """Returns whether the mass of what is not listed is asked for."""
        return self.has_rest and not self.is_sampled()

    def listed_ids(self, signal: SparseSignal, targets: jax.Array) -> jax.Array:
        """Returns int32 `[..., k]`, the words that the student is asked about, -1 in unused places.

        The target is none of them: what is known of it is exact.
        """
        if not self.has_rest:
            return jnp.zeros((*targets.shape, 0), jnp.int32)
        ids = signal.ids
        if self.is_sampled() and isinstance(signal, TopKSignal) and signal.tail is not None:
            ids = jnp.concatenate([ids, signal.tail.ids], axis=-1)
        ids = ids.astype(jnp.int32)
        # A word that the vocabulary does not have is no word of the student's.
        is_word = (ids >= 0) & (ids < self.vocab_size) & (ids != targets[..., None])
        return jnp.where(is_word, ids, -1)

    def found(self, signal: SparseSignal, ids: jax.Array, student: Student) -> Found:
        """Returns what a pass over both models' whole vocabularies would have found, or its estimate or bound."""
        dtype = student.margin.dtype
        signal = jax.tree.map(
            lambda array: array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array, signal
        )
        teacher_margin = signal.target_log_prob - signal.log_uncertainty
        if not self.has_rest:
            divergence = jnp.zeros_like(student.margin)
        elif self.is_sampled():
            divergence = _expected(signal, ids, student)
        else:
            assert isinstance(signal, TopKSignal)
            divergence = self._of_cells(signal, ids, student, teacher_margin)
        return Found(divergence, student.margin, teacher_margin, student.margin)

    def _of_cells(self, signal: TopKSignal, ids: jax.Array, student: Student, teacher_margin: jax.Array) -> jax.Array:
        """Returns the divergence between two distributions over the listed words and one cell of the others."""
        p = _rest_cells(signal, ids, self.vocab_size)
        q = jnp.concatenate([student.listed, student.outside[..., None]], axis=-1)
        question = self.question
        direction = question.direction()
        if direction is not None:
            return relative_entropy(q, p) if direction == "reverse" else relative_entropy(p, q)
        terms = question.pointwise()
        if question.decoupled:
            # Without a rest in one of the models there is no diversity to compare.
            comparable = (student.margin != jnp.inf) & (teacher_margin != jnp.inf)
            return jnp.where(comparable, pointwise.summed(terms(log_probabilities(p), log_probabilities(q))), 0)
        p = _with_target(p, signal.target_log_prob, signal.log_uncertainty)
        q = _with_target(q, jax.nn.log_sigmoid(student.margin), jax.nn.log_sigmoid(-student.margin))
        return pointwise.summed(terms(log_probabilities(p), log_probabilities(q)))


def asked(
    signal: SparseSignal, question: Question, vocab_size: int, *, has_rest: bool = True, loss: str | None = None
) -> SparseQuestion:
    """Returns the question for a signal's kind.

    Args:
      signal: what there is.
      question: as of whole distributions.
      vocab_size: how many words there are.
      has_rest: False where only the target is asked about.
      loss: the name by which `sparse_form` knows the loss; that of the divergence if None.

    Raises:
      ValueError: the loss cannot be had from a signal of that kind.
    """
    kind = kind_of(signal)
    has_rest = has_rest and question.divergence is not None
    if has_rest:
        direction = question.direction()
        sparse_form(loss=loss or (f"{direction}_kl" if direction else str(question.divergence)), kind=kind)
    return SparseQuestion(question, kind, vocab_size, has_rest)


def student_of_logits(asks: SparseQuestion, logits: jax.Array, targets: jax.Array, ids: jax.Array) -> Student:
    """Returns the student's view, from logits `[..., vocab]`; differentiable in both modes to any order."""
    rest = without_target(logits, targets)
    shifted, log_sum, _ = normalized(rest)
    margin = target_margin(logits, targets)
    places = jnp.maximum(ids, 0)
    listed = jnp.take_along_axis(shifted, places, axis=-1, mode="promise_in_bounds") - log_sum
    listed = jnp.where(ids >= 0, listed, -jnp.inf)
    if not asks.needs_outside():
        return Student(margin, listed, jnp.full_like(margin, -jnp.inf))
    # An unused place writes nowhere.
    beyond = jnp.where(ids >= 0, ids, logits.shape[-1])
    others = _dropped(shifted, beyond)
    largest = jax.lax.stop_gradient(jnp.max(others, axis=-1))
    _, log_others, mass = normalized(others)
    outside = jnp.where(mass[..., 0], largest + log_others[..., 0] - log_sum[..., 0], -jnp.inf)
    return Student(margin, listed, outside)


def _dropped(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the logits with -inf at the ids."""
    rows = logits.reshape(-1, logits.shape[-1])
    number = jnp.arange(rows.shape[0])[:, None]
    return rows.at[number, ids.reshape(rows.shape[0], -1)].set(-jnp.inf, mode="drop").reshape(logits.shape)


def _with_target(rest: jax.Array, target_log_prob: jax.Array, log_uncertainty: jax.Array) -> jax.Array:
    return jnp.concatenate([target_log_prob[..., None], rest + log_uncertainty[..., None]], axis=-1)


def _rest_cells(signal: TopKSignal, ids: jax.Array, vocab_size: int) -> jax.Array:
    """Returns log p^ of the listed words and of all others together, `[..., k + 1]`; -inf throughout without a rest.

    They are normalised, which does away with what rounding in storage has done to their sum.
    """
    listed = jnp.where(ids >= 0, signal.log_probs, -jnp.inf)
    has_target = jnp.any((signal.ids >= 0) & (ids < 0), axis=-1)
    share = jnp.exp(jnp.minimum(signal.target_log_prob - signal.log_rest_mass, 0))
    without = jnp.where(share < 1, signal.log_rest_mass + jnp.log1p(-jnp.where(share < 1, share, 0)), -jnp.inf)
    others = jnp.where(has_target, signal.log_rest_mass, without)
    # Where every word is listed there are no others, whatever rounding has left of their mass.
    are_there = jnp.sum(ids >= 0, axis=-1) < vocab_size - 1
    cells = jnp.concatenate([listed, jnp.where(are_there, others, -jnp.inf)[..., None]], axis=-1)
    shifted, log_sum, mass = normalized(cells)
    return jnp.where(mass, shifted - log_sum, -jnp.inf)


def _expected(signal: SparseSignal, ids: jax.Array, student: Student) -> jax.Array:
    """Returns the estimate of KL(p^ || q^): its entropy is exact, its cross-entropy that of the draws."""
    weights = jnp.where(ids >= 0, _weights(signal, student.margin.dtype), 0)
    cross_entropy = -jnp.sum(jnp.where(weights > 0, weights * student.listed, 0), axis=-1)
    has_rest = jnp.any(weights > 0, axis=-1)
    return jnp.where(has_rest, cross_entropy - signal.rest_entropy, 0)


def _weights(signal: SparseSignal, dtype) -> jax.Array:
    """Returns what the listed words stand for of p^."""
    if isinstance(signal, RestSample):
        draws = jnp.sum(signal.counts, axis=-1, keepdims=True)
        return signal.counts.astype(dtype) / jnp.maximum(draws, 1).astype(dtype)
    assert isinstance(signal.tail, TailSample)
    log_weights = jnp.concatenate([signal.log_probs, jnp.log(signal.tail.weights)], axis=-1)
    certain = (signal.log_uncertainty == -jnp.inf)[..., None]
    log_uncertainty = jnp.where(certain, 0, signal.log_uncertainty[..., None])
    return jnp.where(certain, 0, jnp.exp(log_weights - log_uncertainty))
