"""The universal logit distance and the cross-entropy from hidden states and heads, a chunk of tokens at a time.

A sort needs all words of a token at once, so that the vocabulary is not worked through in blocks here: a chunk's logits
are formed whole. Where the heads' columns are split over devices, each of these has all words of its own share of the
chunk's tokens meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.targets import cross_entropy
from atkd_jax.losses.universal_logit import universal_logit
from atkd_jax.losses.varying import all_varying
from atkd_jax.losses.vocabulary_blocks import Chunk, Counted, Model, Plan, over_chunks

_TERMS = ("divergence", "cross_entropy")
_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class _Words:
    """What is done with logits. Static.

    Attributes:
      sizes: how many columns of each model's head are words, over all devices.
      softcaps: each model's c of c tanh(logits / c), or None.
      temperature: of the distance.
      weighted: the names of the terms.
    """

    sizes: tuple[int, int]
    softcaps: tuple[float | None, float | None]
    temperature: float
    weighted: tuple[str, ...]


def linear_universal_logit_sum(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    targets: jax.Array,
    weights: Mapping[str, jax.Array],
    mask: jax.Array | None = None,
    temperature: float = 1.0,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    teacher_vocab_size: int | None = None,
    chunk_tokens: int = _CHUNK_TOKENS,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum over tokens and terms of weight * term, for weights that are known beforehand, and the terms.

    `linear_weighted_sum` for models whose vocabularies differ: the gradient is formed going forward, and sums of parts
    of a batch add up to that of the batch. It does not pair positions, see `universal_logit`.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, student_vocab]`.
      teacher_hidden: `[..., teacher_width]`, the teacher's state that is compared with the student's at that index.
      teacher_head: `[teacher_width, teacher_vocab]`.
      targets: `[...]` of integers, ids of the student's tokens at the index of the hidden states that predict them.
      weights: `[...]` each: "divergence", of the universal logit distance, and "cross_entropy", of the student's -log
        q(target) at temperature 1. A weight of 0 drops a term.
      mask: bool `[...]`, True where a token counts; None counts all.
      temperature: divides both models' logits in the distance, a Python number.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: the student's head is read up to this column; None reads it whole.
      teacher_vocab_size: likewise for the teacher.
      chunk_tokens: counted tokens that are worked on at a time; it changes speed and memory, not the result.
      vocab_axis: the mapped axis over which both heads' columns are split, as in `linear_decoupled_terms`, inside a
        `shard_map` that checks along which axes values vary.
      token_axes: the mapped axes over which tokens are split; the sum is over all of them, the same on every device.

    Returns:
      The sum, a float32 scalar, and the terms `[...]` by name, 0 where a token does not count.

    Gradient:
      Of the sum, by student_hidden and student_head, of first order and in reverse mode. All else is constant.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, or a weight's name is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 1)), "student_head": jnp.log(jnp.array([[0.25, 0.75]]))}
      >>> teacher = {"teacher_hidden": jnp.ones((1, 1)), "teacher_head": jnp.log(jnp.array([[0.7, 0.1, 0.2]]))}
      >>> weights = {"divergence": jnp.ones(1), "cross_entropy": jnp.ones(1)}
      >>> _, terms = losses.linear_universal_logit_sum(**student, **teacher, targets=jnp.array([1]), weights=weights)
      >>> print(f"{terms['divergence'][0]:.4f} {terms['cross_entropy'][0]:.4f}")
      0.2000 0.2877

    Reference:
      Boizard et al., arXiv 2402.12030, section 3.
    """
    function = "linear_universal_logit_sum"
    for name in weights:
        validation.choice(function, "a weight's name", name, _TERMS)
    leading = jnp.shape(student_hidden)[:-1]
    mask = jnp.ones(leading, bool) if mask is None else validation.boolean(function, "mask", mask, leading)
    given = (("student", student_hidden, student_head), ("teacher", teacher_hidden, teacher_head))
    models = [Model(*validation.model(function, *each, None, leading)) for each in given]
    targets = validation.integers(function, "targets", targets, leading).astype(jnp.int32)
    parts = 1 if vocab_axis is None else jax.lax.axis_size(vocab_axis)
    columns = [model.head.shape[-1] * parts for model in models]
    wanted = zip(columns, (vocab_size, teacher_vocab_size), strict=True)
    sizes = [own if size is None else validation.count(function, "vocab_size", size, own) for own, size in wanted]
    if vocab_axis is None:
        models = [model._replace(head=model.head[:, :size]) for model, size in zip(models, sizes, strict=True)]
    softcaps = [validation.softcap(function, cap) for cap in (student_softcap, teacher_softcap)]
    for name, weight in weights.items():
        validation.weights(function, name, weight, leading)
    chunk_tokens = validation.count(function, "chunk_tokens", chunk_tokens)
    words = _Words((sizes[0], sizes[1]), (softcaps[0], softcaps[1]), float(temperature), tuple(weights))
    plan = Plan(sizes[0], sizes[0], chunk_tokens, 1.0, words.softcaps, vocab_axis, tuple(token_axes))

    def flat(array: jax.Array) -> jax.Array:
        kept = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        return jnp.where(kept, array, 0).reshape(-1, *array.shape[mask.ndim :])

    arrays = (
        tuple(model._replace(hidden=flat(model.hidden)) for model in models),
        flat(targets),
        {name: flat(jnp.asarray(weight, jnp.float32)) for name, weight in weights.items()},
    )
    order = jnp.argsort(~mask.reshape(-1), stable=True).astype(jnp.int32)
    counted = Counted(order, jnp.sum(mask, dtype=jnp.int32))
    total, terms = _summed(plan, words, *all_varying((*arrays, counted)))
    axes = (() if vocab_axis is None else (vocab_axis,)) + tuple(token_axes)
    terms = jax.lax.stop_gradient(terms)
    if vocab_axis is not None:
        terms = jax.lax.psum(terms, vocab_axis)
    terms = {name: jnp.where(mask, term.reshape(leading), 0) for name, term in terms.items()}
    return (jax.lax.psum(total, axes) if axes else total), terms


def _forward(plan: Plan, words: _Words, models, targets, weights, counted: Counted):
    student = models[0]

    def chunk(carry, chunk: Chunk, tokens):
        total, by_head = carry
        targets, weights = tokens
        own_student = chunk.models[0]
        products = [_product(model.hidden, model.head.astype(model.hidden.dtype)) for model in chunk.models]
        of_student = partial(_weighted, plan, words, teacher=products[1], targets=targets, weights=weights)
        (value, terms), slope = jax.value_and_grad(of_student, has_aux=True)(products[0])
        narrow = slope.astype(own_student.hidden.dtype)
        by_hidden = _product(narrow, own_student.head.astype(narrow.dtype).T)
        by_head = by_head + _product(own_student.hidden.T, narrow).astype(by_head.dtype)
        return (total + value, by_head), (terms, by_hidden)

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(student.head))
    (total, by_head), (terms, by_hidden) = over_chunks(plan, chunk, start, models, counted, (targets, weights))
    by_student = Model(by_hidden.astype(student.hidden.dtype), by_head, None)
    return (total, terms), (by_student, models[1:])


def _primal(plan: Plan, words: _Words, models, targets, weights, counted: Counted):
    return _forward(plan, words, models, targets, weights, counted)[0]


def _backward(plan: Plan, words: _Words, residuals, cotangents):
    by_student, others = residuals
    scaled = jax.tree.map(lambda gradient: gradient * cotangents[0].astype(gradient.dtype), by_student)
    return (scaled, *(None for _ in others)), None, None, None


_summed: Any = jax.custom_vjp(_primal, nondiff_argnums=(0, 1))
_summed.defvjp(_forward, _backward)


def _weighted(plan: Plan, words: _Words, student: jax.Array, *, teacher, targets, weights):
    """Returns the sum over this device's share of a chunk's tokens, and the chunk's terms, 0 at all other tokens.

    Args:
      plan: which axes are mapped.
      words: what is done with logits.
      student: float32 `[tokens, columns]`, the product of hidden states and head on this device.
      teacher: likewise.
      targets: int32 `[tokens]`.
      weights: float32 `[tokens]` each.
    """
    tokens = targets.shape[0]
    share = partial(_share, plan.vocab_axis)
    logits = [
        _cut(plan.vocab_axis, products, size, softcap)
        for products, size, softcap in zip((student, teacher), words.sizes, words.softcaps, strict=True)
    ]
    found = {}
    if "divergence" in words.weighted:
        found["divergence"] = universal_logit(
            student_logits=logits[0], teacher_logits=jax.lax.stop_gradient(logits[1]), temperature=words.temperature
        )
    found["cross_entropy"] = cross_entropy(student_logits=logits[0], targets=share(targets))
    weights = {name: share(weight) for name, weight in weights.items()}
    products = [jnp.where(weight != 0, weight * found[name], 0) for name, weight in weights.items()]
    total = sum((jnp.sum(product) for product in products), start=jnp.zeros((), jnp.float32))
    return total, {name: _placed(plan.vocab_axis, term, tokens) for name, term in found.items()}


def _cut(vocab_axis: str | None, products: jax.Array, size: int, softcap: float | None) -> jax.Array:
    """Returns the logits of all words of this device's share of the tokens, `[share, size]`."""
    if vocab_axis is not None:
        missing = -products.shape[0] % jax.lax.axis_size(vocab_axis)
        products = jnp.pad(products, ((0, missing), (0, 0)))
        products = jax.lax.all_to_all(products, vocab_axis, split_axis=0, concat_axis=1, tiled=True)
    products = products[:, :size]
    return products if softcap is None else softcap * jnp.tanh(products / softcap)


def _share(vocab_axis: str | None, array: jax.Array) -> jax.Array:
    """Returns the part of `[tokens]` that is this device's."""
    if vocab_axis is None:
        return array
    parts = jax.lax.axis_size(vocab_axis)
    padded = jnp.pad(array, (0, -array.shape[0] % parts))
    each = padded.shape[0] // parts
    return jax.lax.dynamic_slice_in_dim(padded, jax.lax.axis_index(vocab_axis) * each, each)


def _placed(vocab_axis: str | None, share: jax.Array, tokens: int) -> jax.Array:
    """Returns `[tokens]` with this device's part at its place and 0 elsewhere."""
    if vocab_axis is None:
        return share
    parts = jax.lax.axis_size(vocab_axis)
    whole = jnp.zeros_like(share, shape=(share.shape[0] * parts,))
    start = jax.lax.axis_index(vocab_axis) * share.shape[0]
    return jax.lax.dynamic_update_slice_in_dim(whole, share, start, axis=0)[:tokens]


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jax.lax.dot(left, right, preferred_element_type=jnp.float32)
