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

# What logits that are kept between the sweeps may take: those of a chunk, and those of several chunks.
_KEPT_BYTES = 0.2 * 2**30
_KEPT_BYTES_OF_CHUNKS = 0.125 * 2**30
_CHUNK_TOKENS = 1024
# A chunk whose logits are kept: with fewer tokens, to add up the heads' gradients takes more time than forming a KL's
# logits again does. Another divergence sweeps once more, so that keeping them pays for fewer tokens too.
_KEPT_TOKENS = 512
_FEWEST_KEPT_TOKENS = 64


@dataclass(frozen=True)
class Cut:
    """How a caller wants the work cut; see the arguments of `linear_atkd`.

    Attributes:
      summed: whether all weights are known beforehand, and nothing but the terms' weighted sum has a gradient.
      gated: whether they are known only after a pass over the teacher.
    """

    vocab_size: int | None
    block_words: int
    chunk_tokens: int | None
    keep_logits: bool | None
    vocab_axis: str | None
    token_axes: tuple[str, ...]
    implementation: str = "xla"
    summed: bool = False
    gated: bool = False


class Inputs(NamedTuple):
    """Arrays of a linear loss, ready for `blocked`.

    Attributes:
      models: the student and, if there is one, the teacher; hidden states `[tokens, width]`, 0 where nothing counts.
      targets: int32 `[tokens]`, 0 where nothing counts; -1 everywhere if there are none.
      mask: bool `[...]`.
      counted: which tokens count.
      plan: how the work is cut.
      summed: whether `blocked_sum` is to be taken.
    """

    models: tuple[Model, ...]
    targets: jax.Array
    mask: jax.Array
    counted: Counted
    plan: Plan
    summed: bool

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
        alone = {"inverse_temperature": 1.0, "softcaps": self.plan.softcaps[1:], "implementation": "xla"}
        plan = replace(self.plan, **alone, chunk_tokens=chunk_tokens, kept_columns=0)
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
    plan, summed = _plan(function, question, models, mask.size, softcaps, temperature, cut)
    return Inputs(flattened, flat_targets, mask, counted, plan, summed)


def _plan(
    function: str, question: Question, models: list[Model], tokens: int, softcaps, temperature, cut: Cut
) -> tuple[Plan, bool]:
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
    if cut.implementation == "pallas":
        _check_kernel(function, models, softcaps, cut)
        from atkd_jax.losses import linear_pallas  # which brings more than jax along

        hidden, heads = tuple(model.hidden for model in models), tuple(model.head for model in models)
        kept = _Kept(False, 0, linear_pallas.chunk_tokens(hidden, heads))
    else:
        swept = words if cut.vocab_axis is None else columns[0]
        kept = _kept(question, cut, len(models), tokens, swept, block_words)
    chunk_tokens = kept.chunk_tokens if cut.chunk_tokens is None else cut.chunk_tokens
    validation.count(function, "chunk_tokens", chunk_tokens)
    if not isinstance(temperature, Real):
        raise TypeError(f"{function}: temperature must be a Python number, got {type(temperature).__name__}; pass one")
    validation.scaled(function, temperature)
    caps = tuple(validation.softcap(function, cap) for cap in softcaps[: len(models)])
    scale = 1.0 / float(temperature)
    axes = cut.vocab_axis, tuple(cut.token_axes)
    plan = Plan(words, block_words, chunk_tokens, scale, caps, *axes, cut.implementation, kept.columns)
    return plan, kept.summed


class _Kept(NamedTuple):
    """What is kept between the sweeps.

    Attributes:
      summed: whether the gradient is formed going forward, by `blocked_sum`.
      columns: how many columns' logits are kept.
      chunk_tokens: how many tokens' at a time, unless the caller says otherwise.
    """

    summed: bool
    columns: int
    chunk_tokens: int


def _kept(question: Question, cut: Cut, models: int, tokens: int, columns: int, block_words: int) -> _Kept:
    """Returns what costs the fewest products of hidden states and heads within the memory that may be taken.

    For a KL there are 6, or 4 if all logits are kept, and the gate's pass where the gradient is formed going forward.
    """
    if cut.keep_logits is not None and not cut.keep_logits:
        return _Kept(False, 0, _CHUNK_TOKENS)
    if cut.summed and cut.keep_logits:
        return _Kept(True, columns, _KEPT_TOKENS)
    fit = int(_KEPT_BYTES / (4 * models * columns))
    sweeps_again = models == 2 and question.direction() is None
    if cut.summed and sweeps_again:
        return _Kept(True, columns, max(_FEWEST_KEPT_TOKENS, min(fit, _KEPT_TOKENS)))
    # Where there are several chunks, one's logits are copied when they are read back.
    of_one, of_several = _KEPT_BYTES / max(tokens, 1), _KEPT_BYTES_OF_CHUNKS / (tokens + _CHUNK_TOKENS)
    share = (of_one if tokens <= _CHUNK_TOKENS else of_several) / (4 * models * columns)
    if cut.summed and fit >= _KEPT_TOKENS and not (cut.gated and share > 0.5):
        return _Kept(True, columns, _KEPT_TOKENS)
    kept = columns if share >= 1 else int(share * columns) // block_words * block_words
    return _Kept(False, kept, _CHUNK_TOKENS)


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
