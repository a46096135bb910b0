"""Going over the vocabulary a block at a time, from hidden states and heads, with what is kept of each token meanwhile.

Logits of all tokens and words together are never in memory. Going forward, each block's logits update every token's
running maximum and sum of exponentials; what is kept is a few numbers per token. Going backward the block's logits are
formed again, and as each token's log-sum-exp is known by then, its part of the head's gradient is written once. Tokens
are taken in chunks too, so that memory does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Model(NamedTuple):
    """One model's way from hidden states to logits, `hidden @ head + bias`.

    Attributes:
      hidden: `[tokens, width]`.
      head: `[width, vocab]`; the products are taken in the type of `hidden`, with sums in float32.
      bias: `[vocab]`, or None.
    """

    hidden: jax.Array
    head: jax.Array
    bias: jax.Array | None


@dataclass(frozen=True)
class Plan:
    """How the work is cut and what the logits go through. Static: another value is another compiled program.

    Attributes:
      vocab_size: how many columns of the heads are words; those after them are padding and have no part in anything.
      block_words: columns per block.
      chunk_tokens: tokens per chunk.
      inverse_temperature: what logits are multiplied by at last.
      softcaps: for each model, the c of c tanh(logits / c), or None.
      axis: the mapped axis over which the vocabulary is split, or None.
    """

    vocab_size: int
    block_words: int
    chunk_tokens: int
    inverse_temperature: float
    softcaps: tuple[float | None, ...]
    axis: str | None


class Rest(NamedTuple):
    """One model's distribution without the target, each `[tokens]`; with a target of -1, the whole distribution.

    Attributes:
      largest: the largest logit.
      total: the sum of exp(logit - largest), 0 where no word is left.
      target: the target's own logit, -inf where it has not been seen.
    """

    largest: jax.Array
    total: jax.Array
    target: jax.Array

    def shift(self) -> jax.Array:
        """Returns `largest`, and 0 where no word is left."""
        return jnp.where(self.largest == -jnp.inf, 0, self.largest)

    def log_total(self) -> jax.Array:
        """Returns the log of `total`, and 0 where no word is left."""
        return jnp.log(jnp.where(self.total != 0, self.total, 1))

    def margin(self) -> jax.Array:
        """Returns the target's logit less the log-sum-exp of the rest; see `log_space.target_margin`."""
        return jnp.where(self.total != 0, self.target - self.shift() - self.log_total(), jnp.inf)

    def log_probs(self, logits: jax.Array) -> jax.Array:
        """Returns the log probabilities of a block of logits, `[tokens, words]`."""
        return (logits - self.shift()[:, None]) - self.log_total()[:, None]

    def updated(self, logits: jax.Array, column: jax.Array) -> tuple[Rest, jax.Array]:
        """Returns the rest with a block of logits taken into account, and that block less the new shift.

        The target stands in `column`, `[tokens]`, of the block, or not in the block.
        """
        without_target = jnp.where(is_column(logits, column), -jnp.inf, logits)
        largest = jnp.maximum(self.largest, jnp.max(without_target, axis=-1))
        after = self._replace(largest=largest)
        shifted = without_target - after.shift()[:, None]
        total = self.total * jnp.exp(self.largest - after.shift()) + jnp.sum(jnp.exp(shifted), axis=-1)
        words = logits.shape[-1]
        met = jnp.take_along_axis(logits, jnp.clip(column, 0, words - 1)[:, None], axis=-1, mode="promise_in_bounds")
        target = jnp.where((column >= 0) & (column < words), met[:, 0], self.target)
        return Rest(largest, total, target), shifted

    def over_devices(self, axis: str) -> Rest:
        """Returns the rest of the whole vocabulary where each device has seen its own part of it."""
        after = self._replace(largest=jax.lax.pmax(self.largest, axis))
        total = jax.lax.psum(self.total * jnp.exp(self.largest - after.shift()), axis)
        return Rest(after.largest, total, jax.lax.pmax(self.target, axis))


Logits = tuple[jax.Array, ...]


def is_column(logits: jax.Array, column: jax.Array) -> jax.Array:
    """Returns bool `[tokens, words]`, True where a block's column is that of the token's target."""
    return jnp.arange(logits.shape[-1], dtype=column.dtype)[None] == column[:, None]


def unseen(tokens: jax.Array) -> Rest:
    """Returns the rest before any block; `tokens` has its shape."""
    zero = jnp.zeros(tokens.shape, jnp.float32)
    return Rest(zero - jnp.inf, zero, zero - jnp.inf)


def fold(
    plan: Plan,
    models: tuple[Model, ...],
    tokens: Any,
    start: Callable[[Any], Any],
    block: Callable[[Any, Any, Logits, jax.Array], Any],
    finish: Callable[[Any], Any],
) -> Any:
    """Returns what the blocks make of every token, a tree of `[tokens]`.

    Args:
      plan: how the work is cut.
      models: whose logits the blocks are of.
      tokens: a tree of `[tokens]`, whose first leaf are the targets.
      start: maps a chunk of `tokens` to the carry.
      block: maps a chunk of `tokens`, the carry, the models' logits `[chunk, words]` and the target's column to
        a new carry.
      finish: maps the carry to the result.
    """

    def chunk(nothing, part):
        hidden, tokens = part
        these = tuple(model._replace(hidden=states) for model, states in zip(models, hidden, strict=True))

        def step(carry, first_word, words: int):
            return block(tokens, carry, *_block(plan, these, tokens, first_word, words))

        carry = _varying_like(start(tokens), models)
        return nothing, finish(_over_blocks(plan, step, carry))

    return _over_chunks(plan, chunk, (), (tuple(model.hidden for model in models), tokens))[1]


def gradient(
    plan: Plan, models: tuple[Model, ...], tokens: Any, slope: Callable[[Any, Logits, jax.Array], jax.Array]
) -> Model:
    """Returns the derivatives by the first model, given those by its logits.

    Args:
      plan: how the work is cut.
      models: whose logits the slope is made from.
      tokens: a tree of `[tokens]`, whose first leaf are the targets.
      slope: maps a chunk of `tokens`, the models' logits `[chunk, words]` and the target's column to the
        derivative by the first model's logits, `[chunk, words]`.
    """
    first = models[0]

    def chunk(by_head: tuple, part):
        hidden, tokens = part
        these = tuple(model._replace(hidden=states) for model, states in zip(models, hidden, strict=True))
        student = these[0]

        def step(carry, first_word, words: int):
            by_head, by_bias, by_hidden = carry
            logits, column = _block(plan, these, tokens, first_word, words)
            by_product = slope(tokens, logits, column) * _cap_slope(plan, logits[0])
            narrow = by_product.astype(student.hidden.dtype)
            columns = _columns(student.head, first_word, words).astype(narrow.dtype)
            by_hidden = by_hidden + _product(narrow, columns.T)
            by_head = _add_columns(by_head, _product(student.hidden.T, narrow), first_word)
            if by_bias is not None:
                by_bias = _add_columns(by_bias, jnp.sum(by_product, axis=0), first_word)
            return by_head, by_bias, by_hidden

        start = _varying_like((*by_head, jnp.zeros(student.hidden.shape, jnp.float32)), models)
        new_head, new_bias, by_hidden = _over_blocks(plan, step, start)
        return (new_head, new_bias), by_hidden.astype(student.hidden.dtype)

    zeros = _varying_like(jax.tree.map(jnp.zeros_like, (first.head, first.bias)), models)
    (by_head, by_bias), by_hidden = _over_chunks(plan, chunk, zeros, (tuple(model.hidden for model in models), tokens))
    return Model(by_hidden, by_head, by_bias)


def _block(plan: Plan, models: tuple[Model, ...], tokens, first_word, words: int):
    """Returns the models' logits of a block, float32 `[tokens, words]` each, and the target's column, `[tokens]`."""
    logits = tuple(
        _logits(model, softcap, plan.inverse_temperature, first_word, words)
        for model, softcap in zip(models, plan.softcaps, strict=True)
    )
    targets = jax.tree.leaves(tokens)[0]
    if plan.axis is not None:
        first_word = first_word + jax.lax.axis_index(plan.axis) * plan.vocab_size
    return logits, targets - first_word


def _logits(model: Model, softcap: float | None, inverse_temperature: float, first_word, words: int) -> jax.Array:
    columns = _columns(model.head, first_word, words).astype(model.hidden.dtype)
    logits = _product(model.hidden, columns)
    if model.bias is not None:
        logits = logits + _columns(model.bias, first_word, words).astype(jnp.float32)[None]
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return logits if inverse_temperature == 1 else logits * inverse_temperature


def _cap_slope(plan: Plan, logits: jax.Array) -> jax.Array | float:
    """Returns the derivative of the first model's logits by the product that they come from."""
    softcap, scale = plan.softcaps[0], plan.inverse_temperature
    return scale if softcap is None else scale * (1 - (logits / (softcap * scale)) ** 2)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jax.lax.dot(left, right, preferred_element_type=jnp.float32)


def _columns(array: jax.Array, first_word, words: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, first_word, words, axis=-1)


def _add_columns(total: jax.Array, new: jax.Array, first_word) -> jax.Array:
    added = _columns(total, first_word, new.shape[-1]) + new.astype(total.dtype)
    return jax.lax.dynamic_update_slice_in_dim(total, added, first_word, axis=-1)


def _over_blocks(plan: Plan, step: Callable[[Any, Any, int], Any], start):
    """Returns `start` after `step(carry, first_word, words)` for every block, the last and shorter one included."""
    words = min(plan.block_words, plan.vocab_size)
    blocks, left = divmod(plan.vocab_size, words)
    carry = jax.lax.fori_loop(0, blocks, lambda number, carry: step(carry, number * words, words), start)
    return step(carry, blocks * words, left) if left else carry


def _over_chunks(plan: Plan, chunk: Callable[[Any, Any], tuple[Any, Any]], start, tokens):
    """Returns the carry and the results, `[tokens, ...]`, after `chunk(carry, part)` for every chunk of tokens.

    The last chunk is filled up with tokens whose arrays, cotangents among them, are 0.
    """
    count = jax.tree.leaves(tokens)[0].shape[0]
    size = min(plan.chunk_tokens, count)
    if size == count:
        return chunk(start, tokens)
    chunks = -(-count // size)

    def cut(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, [(0, chunks * size - count)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(chunks, size, *array.shape[1:])

    carry, results = jax.lax.scan(chunk, start, jax.tree.map(cut, tokens))
    return carry, jax.tree.map(lambda array: array.reshape(chunks * size, *array.shape[2:])[:count], results)


def varying_axes(tree) -> frozenset:
    """Returns the mapped axes along which any array of the tree is known to vary; empty outside of `shard_map`."""
    axes = frozenset()
    for leaf in jax.tree.leaves(tree):
        kind = jax.typeof(leaf)
        # The name of this attribute changed between releases of jax.
        manual = getattr(kind, "manual_axis_type", None)
        axes |= manual.varying if manual is not None else getattr(kind, "vma", frozenset())
    return axes


def all_varying(tree: Any) -> Any:
    """Returns the tree with each array marked as varying along every axis along which one of them varies.

    `shard_map` checks that loops and derivatives keep these marks; the mark's own derivative is the sum over devices.
    """
    return _varying_like(tree, tree)


def _varying_like(tree, other):
    axes = varying_axes(other)

    def marked(array: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - varying_axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(marked, tree) if axes else tree
