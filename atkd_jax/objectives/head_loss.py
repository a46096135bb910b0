"""The loss from final hidden states and heads, without ever holding the logits of all tokens.

The weights of a step are known before the student's head is applied, so the gradient can be formed while the loss is:
each chunk of counted tokens goes through both heads once, and nothing of the size of the vocabulary is kept or
computed again.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.objectives.counted import counted_chunks
from atkd_jax.objectives.weighting import Objective, Weighting, evaluate_terms

Metrics = dict[str, jax.Array]


class Tokens(NamedTuple):
    """What is known of a micro-batch's tokens besides the student: arrays `[..., ]` with the same leading axes.

    Attributes:
        teacher_hidden: `[..., teacher_width]`.
        targets: int32 `[...]`.
        mask: bool `[...]`.
        weighting: float32 `[...]` each; without scalars.
    """

    teacher_hidden: jax.Array
    targets: jax.Array
    mask: jax.Array
    weighting: Weighting


def head_loss(
    objective: Objective,
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_head: jax.Array,
    tokens: Tokens,
    vocab_size: int,
    chunk_tokens: int | None,
) -> tuple[jax.Array, Metrics]:
    """Returns a micro-batch's share of the loss and of the metrics; see `evaluate_terms`.

    Args:
        objective: The terms and what they are made of.
        student_hidden: `[..., width]`, after the final norm; the type of the arithmetic.
        student_head: `[width, vocab]`; columns from `vocab_size` on are padding and are cut.
        teacher_head: `[teacher_width, vocab]`, likewise.
        tokens: The rest.
        vocab_size: The tokenizer's number of ids.
        chunk_tokens: How many counted tokens go through the heads at once. None takes all tokens in one piece and
            leaves their order as it is, which is what a batch that is split over devices wants.

    Gradient:
        By `student_hidden` and `student_head`, in first order when `chunk_tokens` is given.
    """
    student_head, teacher_head = student_head[:, :vocab_size], teacher_head[:, :vocab_size]
    if chunk_tokens is None:
        return _all_at_once(objective, student_hidden, student_head, teacher_head, tokens)
    leading = tokens.mask.ndim
    student_hidden, tokens = jax.tree.map(
        lambda array: array.reshape(-1, *array.shape[leading:]), (student_hidden, tokens)
    )
    return _by_chunks(objective, chunk_tokens, student_hidden, student_head, teacher_head, tokens)


def project(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Returns float32 logits; the factors have the type of `hidden`."""
    return jnp.einsum("...d,dv->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def _all_at_once(
    objective: Objective, student_hidden: jax.Array, student_head: jax.Array, teacher_head: jax.Array, tokens: Tokens
) -> tuple[jax.Array, Metrics]:
    return evaluate_terms(
        objective,
        tokens.weighting,
        student_logits=project(student_hidden, student_head),
        teacher_logits=project(tokens.teacher_hidden, teacher_head),
        targets=tokens.targets,
        mask=tokens.mask,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_chunks(
    objective: Objective,
    chunk_tokens: int,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_head: jax.Array,
    tokens: Tokens,
) -> tuple[jax.Array, Metrics]:
    return _value_and_gradient(objective, chunk_tokens, student_hidden, student_head, teacher_head, tokens)[0]


def _value_and_gradient(
    objective: Objective,
    chunk_tokens: int,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_head: jax.Array,
    tokens: Tokens,
) -> tuple[tuple[jax.Array, Metrics], tuple[jax.Array, jax.Array]]:
    chunks = counted_chunks(tokens.mask, chunk_tokens)

    def one_chunk(turn: jax.Array) -> tuple[jax.Array, Metrics, jax.Array, jax.Array, jax.Array]:
        numbers, valid = chunks.chunk(turn)
        # The last chunk has places to spare. Nothing of what stands there may get through: 0 times NaN is NaN.
        hidden, part = jax.tree.map(
            lambda array: jnp.where(valid.reshape(-1, *(1,) * (array.ndim - 1)), array[numbers], 0),
            (student_hidden, tokens._replace(mask=None)),
        )
        part = part._replace(mask=valid)
        loss = partial(_all_at_once, objective, teacher_head=teacher_head, tokens=part)
        (value, metrics), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden, student_head)
        return value, metrics, numbers, *gradients

    def add(turn: jax.Array, total):  # the carry's structure is that of `start`
        value, metrics, numbers, by_hidden, by_head = one_chunk(turn)
        totals, total_by_hidden, total_by_head = total
        totals = jax.tree.map(jnp.add, totals, (value, metrics))
        return totals, total_by_hidden.at[numbers].add(by_hidden), total_by_head + by_head

    abstract = jax.eval_shape(one_chunk, jnp.int32(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract[:2])
    start = (zeros, jnp.zeros_like(student_hidden), jnp.zeros_like(student_head))
    value, by_hidden, by_head = jax.lax.fori_loop(0, chunks.turns, add, start)
    return value, (by_hidden, by_head)


def _backward(objective, chunk_tokens, gradients, cotangents):  # custom_vjp's own signature
    del objective, chunk_tokens
    scale, _ = cotangents
    by_hidden, by_head = (gradient * scale.astype(gradient.dtype) for gradient in gradients)
    return by_hidden, by_head, None, None


_by_chunks.defvjp(_value_and_gradient, _backward)
