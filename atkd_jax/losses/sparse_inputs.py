"""What linear losses from a sparse signal have in common: arguments checked and flattened, and sums of terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses.decoupling import DecoupledTerms
from atkd_jax.losses.linear_inputs import Cut, Inputs, prepare
from atkd_jax.losses.sparse import SparseSignal, checked, harmless
from atkd_jax.losses.sparse_blocks import listed_student, listed_sum
from atkd_jax.losses.sparse_divergence import with_stored
from atkd_jax.losses.sparse_terms import SparseQuestion, asked
from atkd_jax.losses.token_terms import Found, Question
from atkd_jax.losses.vocabulary_blocks import Model


class SparseInputs(NamedTuple):
    """Arguments that are checked and flattened, and what can be found from them.

    Attributes:
      asks: what is asked of every token.
      inputs: the student's arrays.
      signal: `[tokens, ...]`, empty where nothing counts.
    """

    asks: SparseQuestion
    inputs: Inputs
    signal: SparseSignal

    def ids(self) -> jax.Array:
        """Returns the words that the student is asked about, int32 `[tokens, k]`."""
        return self.asks.listed_ids(self.signal, self.inputs.targets)

    def shaped_signal(self) -> SparseSignal:
        """Returns the signal in the shape of the mask."""
        shape = self.inputs.mask.shape
        return jax.tree.map(lambda array: array.reshape(*shape, *array.shape[1:]), self.signal)

    def found(self) -> Found:
        """Returns what is found of every token, `[...]`."""
        inputs, ids = self.inputs, self.ids()
        student = listed_student(inputs.plan, self.asks, inputs.models[0], inputs.targets, ids, inputs.counted)
        return inputs.known(inputs.shaped(self.asks.found(self.signal, ids, student)))

    def total(self, weights: Mapping[str, jax.Array]) -> tuple[jax.Array, Found]:
        """Returns the weighted sum over all devices of the token axes, and what was found of this device's tokens."""
        inputs, ids = self.inputs, self.ids()
        flat = inputs.flat_weights(dict(weights))
        if inputs.summed:
            plan, model = inputs.plan, inputs.models[0]
            total, found = listed_sum(plan, self.asks, model, inputs.targets, self.signal, ids, inputs.counted, flat)
            found = inputs.known(inputs.shaped(found))
        else:
            found = self.found()
            total = self.asks.question.weighted(jax.tree.map(lambda array: array.reshape(-1), found), flat)
        axes = inputs.plan.token_axes
        return (jax.lax.psum(total, axes) if axes else total), jax.lax.stop_gradient(found)

    def weighted(self, weights: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the weighted sum, and the terms `[...]`."""
        total, found = self.total(weights)
        terms = self.asks.question.terms(found)
        return total, {name: jnp.where(self.inputs.mask, term, 0) for name, term in terms.items()}

    def decoupled(self, found: Found) -> DecoupledTerms:
        """Returns the terms of what was found, `[...]`."""
        return with_stored(self.asks.question.decoupled_terms(found), self.shaped_signal())


def prepare_sparse(
    function: str,
    question: Question,
    model: Model,
    softcap: float | None,
    signal,
    targets,
    mask,
    cut: Cut,
    has_rest: bool = True,
) -> SparseInputs:
    """Returns the inputs, checked; what does not count has been made harmless.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, or the loss cannot be had from this kind of signal.
    """
    inputs = prepare(function, question, model, None, (softcap, None), targets, mask, 1.0, cut)
    signal = harmless(checked(function, signal, inputs.mask.shape), inputs.mask)
    asks = asked(signal, question, inputs.plan.vocab_size, has_rest=has_rest)
    axes = inputs.mask.ndim
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[axes:]), signal)
    return SparseInputs(asks, inputs, flat)
