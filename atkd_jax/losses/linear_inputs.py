"""What the linear losses have in common: arguments checked and flattened, and the plan by which they are worked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.varying import all_varying
from atkd_jax.losses.vocabulary_blocks import IMPLEMENTATIONS, Counted, Model, Plan

# Logits are kept between the sweeps where those of so many tokens take no more memory than this: with smaller chunks
# the products lose more time than forming the logits again takes.
_KEPT_TOKENS = 512
_KEPT_BYTES = 0.2 * 2**30
_CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Cut:
    """How a caller wants the work cut; see the arguments of `linear_atkd`."""

    vocab_size: int | None
    block_words: int
    chunk_tokens: int | None
    keep_logits: bool | None
    vocab_axis: str | None
    token_axes: tuple[str, ...]
    implementation: str = "xla"


class Inputs(NamedTuple):
    """Arrays of a linear loss, ready for `blocked`.

    Attributes:
      models: the student and, if there is one, the teacher; hidden states `[tokens, width]`, 0 where nothing counts.
      targets: int32 `[tokens]`, 0 where nothing counts; -1 everywhere if there are none.
      mask: bool `[...]`.
      counted: which tokens count.
      plan: how the work is cut.
      keep: whether logits are kept between the sweeps, where weights are known beforehand.
    """

    models: tuple[Model, ...]
    targets: jax.Array
    mask: jax.Array
    counted: Counted
    plan: Plan
    keep: bool

    def shaped(self, tree):
        """Returns the arrays `[tokens]` of a tree in the shape of the mask."""
        return jax.tree.map(lambda array: array.reshape(self.mask.shape), tree)

    def flat_weights(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns weights `[...]` for `blocked_sum`: 0 where nothing counts, NaN at a target that is no word."""
        counted = {name: jnp.where(self.mask, jnp.asarray(weight, jnp.float32), 0) for name, weight in weights.items()}
        return {name: weight.reshape(-1) for name, weight in self.known(counted).items()}

    def known(self, tree):
        """Returns the arrays `[...]` of a tree, NaN where a counted target is no word: no block has met it."""
        unknown = (self.targets >= self.plan.vocab_size) | (self.targets < -1)
        return jax.tree.map(lambda array: jnp.where(unknown.reshape(self.mask.shape), jnp.nan, array), tree)

    def teacher(self) -> Inputs:
        """Returns the teacher alone, at temperature 1, as the gate asks it."""
        chunk_tokens = max(self.plan.chunk_tokens, _CHUNK_TOKENS)
        softcaps = self.plan.softcaps[1:]
        plan = replace(
            self.plan, inverse_temperature=1.0, softcaps=softcaps, chunk_tokens=chunk_tokens, implementation="xla"
        )
        return self._replace(models=self.models[1:], plan=plan)


def prepare(
    function: str,
    question: Question,
    student: Model,
    teacher: Model | None,
    softcaps: tuple[float | None, float | None],
    targets,
    mask,
    temperature,
    cut: Cut,
) -> Inputs:
    """Returns the inputs, checked; what does not count has been made harmless.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, or the implementation has no answer to the question.
    """
    _check_question(function, cut.implementation, question)
    leading = jnp.shape(student.hidden)[:-1]
    models: list[Model] = []
    given: tuple[tuple[str, Model | None], ...] = (("student", student), ("teacher", teacher))
    for name, model in given:
        if model is not None:
            models.append(Model(*validation.model(function, name, model.hidden, model.head, model.bias, leading)))
    mask = jnp.ones(leading, bool) if mask is None else validation.boolean(function, "mask", mask, leading)
    if targets is None:
        flat_targets = jnp.full(mask.size, -1, jnp.int32)
    else:
        targets = validation.integers(function, "targets", targets, leading).astype(jnp.int32)
        # -1 means that there is no target, so that an unknown one is moved away from it.
        targets = jnp.where(targets < 0, targets - 1, targets)
        flat_targets = jnp.where(mask, targets, 0).reshape(-1)

    def flat(hidden: jax.Array) -> jax.Array:
        return jnp.where(mask[..., None], hidden, 0).reshape(-1, hidden.shape[-1])

    flattened = all_varying(tuple(model._replace(hidden=flat(model.hidden)) for model in models))
    order = jnp.argsort(~mask.reshape(-1), stable=True).astype(jnp.int32)
    counted = Counted(order, jnp.sum(mask, dtype=jnp.int32))
    plan, keep = _plan(function, models, softcaps, temperature, cut)
    return Inputs(flattened, flat_targets, mask, counted, plan, keep)


def _plan(function: str, models: list[Model], softcaps, temperature, cut: Cut) -> tuple[Plan, bool]:
    columns = [model.head.shape[-1] for model in models]
    if len(set(columns)) > 1 and (cut.vocab_size is None or cut.vocab_axis is not None):
        advice = "pass vocab_size, the tokenizer's size, if they are padded"
        if cut.vocab_axis is not None:
            advice = "pad or cut both before they are split over devices"
        raise ValueError(
            f"{function}: student_head and teacher_head must have the same number of columns, got {columns[0]} and "
            f"{columns[1]}; {advice}"
        )
    there_are = min(columns) if cut.vocab_axis is None else columns[0] * jax.lax.axis_size(cut.vocab_axis)
    words = there_are if cut.vocab_size is None else validation.count(function, "vocab_size", cut.vocab_size, there_are)
    block_words = validation.count(function, "block_words", cut.block_words)
    of_a_token = 4 * len(models) * (words if cut.vocab_axis is None else columns[0])
    keep = cut.keep_logits
    by_kernel = cut.implementation == "pallas"
    if by_kernel:
        _check_kernel(function, models, softcaps, cut)
        keep = False
    if keep is None:
        keep = _KEPT_TOKENS * of_a_token <= _KEPT_BYTES
    chunk_tokens = cut.chunk_tokens
    if chunk_tokens is None:
        chunk_tokens = _KEPT_TOKENS if keep else _CHUNK_TOKENS
        if by_kernel:
            from atkd_jax.losses import linear_pallas  # which brings more than jax along

            hidden, heads = tuple(model.hidden for model in models), tuple(model.head for model in models)
            chunk_tokens = linear_pallas.chunk_tokens(hidden, heads)
    validation.count(function, "chunk_tokens", chunk_tokens)
    if not isinstance(temperature, Real):
        raise TypeError(f"{function}: temperature must be a Python number, got {type(temperature).__name__}; pass one")
    validation.scaled(function, temperature)
    caps = tuple(validation.softcap(function, cap) for cap in softcaps[: len(models)])
    scale = 1.0 / float(temperature)
    axes = cut.vocab_axis, tuple(cut.token_axes)
    return Plan(words, block_words, chunk_tokens, scale, caps, *axes, cut.implementation), bool(keep)


def _check_question(function: str, implementation: str, question: Question) -> None:
    """Raises ValueError where the implementation is unknown or has no answer to the question."""
    validation.choice(function, "implementation", implementation, IMPLEMENTATIONS)
    if implementation != "pallas":
        return
    if question.direction() is None:
        asked = "cross-entropy alone" if question.divergence is None else question.divergence
        raise ValueError(
            f"{function}: implementation 'pallas' finds the forward and the reverse KL, got {asked}; leave it 'xla'"
        )
    if question.plain:
        raise ValueError(
            f"{function}: implementation 'pallas' has one temperature, which must be 1 where cross-entropy may have a "
            "weight, got another; leave it 'xla'"
        )


def _check_kernel(function: str, models: list[Model], softcaps, cut: Cut) -> None:
    refused = {
        "bias": any(model.bias is not None for model in models),
        "softcap": any(cap is not None for cap in softcaps),
        "mapped axes": cut.vocab_axis is not None or bool(cut.token_axes),
        "keep_logits=True": bool(cut.keep_logits),
    }
    for what, given in refused.items():
        if given:
            raise ValueError(
                f"{function}: implementation 'pallas' takes no {what}; leave that out, or take implementation 'xla'"
            )
