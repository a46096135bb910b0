"""Going over the vocabulary a block at a time, from hidden states and heads, with what is kept of each token meanwhile.

Logits of all tokens and words together are never in memory. Tokens are taken in chunks, those that count first and the
others not at all; the words of a chunk are swept over in blocks. A first sweep updates every token's running maximum
and sum of exponentials. Once these are known, each block's slice of the head's gradient is written at once. Between the
sweeps the logits of a chunk's first columns are kept, as many as the plan says; the others are formed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses.varying import marked_varying, zeros_for

# Who cuts a chunk's words into blocks: `Chunk.sweep` in ordinary JAX, or the kernels of `linear_pallas`.
IMPLEMENTATIONS = ("xla", "pallas")


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


class Counted(NamedTuple):
    """Which tokens count.

    Attributes:
      order: int32 `[tokens]`, numbers of tokens, the counted ones first.
      number: int32 scalar, how many count.
    """

    order: jax.Array
    number: jax.Array


@dataclass(frozen=True)
class Plan:
    """How the work is cut and what the logits go through. Static: another value is another compiled program.

    Attributes:
      vocab_size: how many columns of the heads are words, over all devices; those after them are padding and have no
        part in anything.
      block_words: columns per block.
      chunk_tokens: tokens per chunk.
      inverse_temperature: what logits are multiplied by at last.
      softcaps: for each model, the c of c tanh(logits / c), or None.
      vocab_axis: the mapped axis over which the heads' columns are split, or None.
      token_axes: the mapped axes over which tokens are split.
      implementation: one of `IMPLEMENTATIONS`.
      kept_columns: how many columns' logits are kept between the sweeps of a chunk, on each device.
    """

    vocab_size: int
    block_words: int
    chunk_tokens: int
    inverse_temperature: float
    softcaps: tuple[float | None, ...]
    vocab_axis: str | None = None
    token_axes: tuple[str, ...] = ()
    implementation: str = "xla"
    kept_columns: int = 0


class Block(NamedTuple):
    """A block of words.

    Attributes:
      logits: each model's, float32 `[tokens, words]`; -inf where a column is no word.
      column: int32 `[tokens]`, where the target stands in the block; not in `[0, words)` if it stands elsewhere.
      first_word: the number of the block's first column in the heads.
    """

    logits: tuple[jax.Array, ...]
    column: jax.Array
    first_word: Any


@dataclass(frozen=True)
class Chunk:
    """A chunk of tokens, whose words can be swept over.

    Attributes:
      plan: how the work is cut.
      models: whose logits the blocks are of, with the chunk's hidden states.
      targets: int32 `[tokens]`.
      kept: each model's logits of the first columns, `[tokens, kept_columns]`, once `sweep_and_keep` has formed them.
    """

    plan: Plan
    models: tuple[Model, ...]
    targets: jax.Array
    kept: tuple[jax.Array, ...] | None = None

    def sweep(self, step: Callable[[Any, Block], Any], start: Any) -> Any:
        """Returns `start` after `step(carry, block)` for every block."""

        kept = 0 if self.kept is None else self.kept[0].shape[-1]
        return self._over(kept, self._columns(), step, self._over(0, kept, step, start))

    def sweep_and_keep(self, step: Callable[[Any, Block], Any], start: Any) -> tuple[Any, Chunk]:
        """Returns what `sweep` does, and the chunk with its logits kept for the next sweeps."""

        def keep(state, block: Block):
            carry, kept = state
            kept = (
                jax.lax.dynamic_update_slice_in_dim(total, logits, block.first_word, axis=-1)
                for total, logits in zip(kept, block.logits, strict=True)
            )
            return step(carry, block), tuple(kept)

        columns = min(self.plan.kept_columns, self._columns())
        if not columns:
            return self.sweep(step, start), self
        empty = tuple(jnp.zeros((self.targets.shape[0], columns), jnp.float32) for _ in self.models)
        carry, kept = self._over(0, columns, keep, (start, empty))
        return self._over(columns, self._columns(), step, carry), replace(self, kept=kept)

    def gradient(self, slope: Callable[[Block], jax.Array], totals: Model) -> tuple[Model, jax.Array]:
        """Returns the derivatives by the first model, given those by its logits.

        Args:
          slope: maps a block to the derivative by the first model's logits, `[tokens, words]`.
          totals: the derivatives by head and bias so far; `hidden` is not used.

        Returns:
          `totals` with this chunk's part, and the derivative by the chunk's hidden states, float32.
        """
        plan, student = self.plan, self.models[0]

        def step(carry, block: Block):
            by_head, by_bias, by_hidden = carry
            by_product = slope(block) * _cap_slope(plan, block.logits[0])
            narrow = by_product.astype(student.hidden.dtype)
            columns = _columns(student.head, block.first_word, narrow.shape[-1]).astype(narrow.dtype)
            by_hidden = by_hidden + _product(narrow, columns.T)
            by_head = _add_columns(by_head, _product(student.hidden.T, narrow), block.first_word)
            if by_bias is not None:
                by_bias = _add_columns(by_bias, jnp.sum(by_product, axis=0), block.first_word)
            return by_head, by_bias, by_hidden

        start = (totals.head, totals.bias, jnp.zeros(student.hidden.shape, jnp.float32))
        by_head, by_bias, by_hidden = self.sweep(step, start)
        return totals._replace(head=by_head, bias=by_bias), by_hidden

    def _over(self, first: int, end: int, step: Callable[[Any, Block], Any], start: Any) -> Any:
        """Returns `start` after `step(carry, block)` for every block of the columns from `first` to `end`."""
        if first == end:
            return start
        is_kept = self.kept is not None and end <= self.kept[0].shape[-1]

        def of_block(carry, first_word, words: int):
            return step(carry, self._block(first_word, words, is_kept))

        return _over_blocks(first, end, self.plan.block_words, of_block, marked_varying(start, self.models))

    def _columns(self) -> int:
        """Returns how many columns of the heads are swept over on this device."""
        return self.plan.vocab_size if self.plan.vocab_axis is None else self.models[0].head.shape[-1]

    def _block(self, first_word, words: int, is_kept: bool) -> Block:
        plan = self.plan
        first_of_all = first_word
        if plan.vocab_axis is not None:
            first_of_all = first_word + jax.lax.axis_index(plan.vocab_axis) * self._columns()
        column = self.targets - first_of_all
        if is_kept:
            assert self.kept is not None
            return Block(tuple(_columns(kept, first_word, words) for kept in self.kept), column, first_word)
        logits = tuple(
            _logits(model, softcap, plan.inverse_temperature, first_word, words)
            for model, softcap in zip(self.models, plan.softcaps, strict=True)
        )
        if plan.vocab_axis is not None and self._columns() * jax.lax.axis_size(plan.vocab_axis) != plan.vocab_size:
            is_word = (first_of_all + jnp.arange(words) < plan.vocab_size)[None]
            logits = tuple(jnp.where(is_word, block, -jnp.inf) for block in logits)
        return Block(logits, column, first_word)


def no_gradient(model: Model) -> Model:
    """Returns zeros for the derivatives by head and bias; `hidden` is left as it is."""
    zeros = jax.tree.map(jnp.zeros_like, (model.head, model.bias))
    return model._replace(head=zeros[0], bias=zeros[1])


def over_chunks(
    plan: Plan,
    chunk: Callable[[Any, Chunk, Any], tuple[Any, Any]],
    carry: Any,
    models: tuple[Model, ...],
    counted: Counted,
    tokens: tuple,
) -> tuple[Any, Any]:
    """Returns the carry and the results of the counted tokens, a tree of `[tokens, ...]`; those of others are 0.

    Args:
      plan: how the work is cut.
      chunk: maps the carry, a chunk and its slice of `tokens` to a new carry and a tree of `[chunk, ...]`.
      carry: what goes from chunk to chunk.
      models: whose logits are asked for.
      counted: which tokens count.
      tokens: a tuple of trees of `[tokens, ...]`, of which the first is the targets.
    """
    arrays = (tuple(model.hidden for model in models), tokens)
    count = tokens[0].shape[0]
    # As many chunks as `chunk_tokens` asks for, of even size.
    size = -(-count // -(-count // plan.chunk_tokens)) if count else 1

    def of_part(carry, part):
        hidden, tokens = part
        own = tuple(model._replace(hidden=states) for model, states in zip(models, hidden, strict=True))
        return chunk(carry, Chunk(plan, own, tokens[0]), tokens)

    carry = marked_varying(carry, models)
    if size == count:
        return of_part(carry, arrays)
    order = jnp.pad(counted.order, (0, -count % size))
    # Places beyond the counted tokens are read as 0, cotangents among them, and written nowhere.
    turns = (counted.number + size - 1) // size
    if plan.vocab_axis is not None and plan.token_axes:
        # Where a chunk's sums go over devices, all of them take as many turns.
        turns = jax.lax.pmax(turns, plan.token_axes)

    def part_of(turn) -> tuple[jax.Array, Any]:
        places = turn * size + jnp.arange(size)
        numbers = jnp.where(places < counted.number, jnp.take(order, places), count)
        read = partial(jnp.take, indices=numbers, axis=0, mode="fill", fill_value=0)
        return numbers, jax.tree.map(read, arrays)

    def one_turn(turn, state):
        carry, results = state
        numbers, part = part_of(turn)
        carry, found = of_part(carry, part)
        return carry, jax.tree.map(lambda total, new: total.at[numbers].set(new, mode="drop"), results, found)

    _, found = jax.eval_shape(of_part, carry, jax.eval_shape(part_of, 0)[1])
    empty = jax.tree.map(lambda leaf: zeros_for(leaf, count), found)
    return jax.lax.fori_loop(0, turns, one_turn, (carry, empty))


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
    if softcap is None:
        return scale
    # A column that is no word has the logit -inf, which no cap gives.
    return jnp.where(logits == -jnp.inf, 0, scale * (1 - (logits / (softcap * scale)) ** 2))


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jax.lax.dot(left, right, preferred_element_type=jnp.float32)


def _columns(array: jax.Array, first_word, words: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, first_word, words, axis=-1)


def _add_columns(total: jax.Array, new: jax.Array, first_word) -> jax.Array:
    added = _columns(total, first_word, new.shape[-1]) + new.astype(total.dtype)
    return jax.lax.dynamic_update_slice_in_dim(total, added, first_word, axis=-1)


def _over_blocks(first: int, end: int, block_words: int, step: Callable[[Any, Any, int], Any], start):
    """Returns `start` after `step(carry, first_word, words)` for every block, the last and shorter one included."""
    words = min(block_words, end - first)
    blocks, left = divmod(end - first, words)
    carry = jax.lax.fori_loop(0, blocks, lambda number, carry: step(carry, first + number * words, words), start)
    return step(carry, end - left, left) if left else carry
