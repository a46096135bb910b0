"""Batches of training in which text that a model wrote stands in place of the data's responses.

The rows are unpacked: one prompt and one response each. What counts of a written text are its tokens from the first to
the closing one; the prompt's last token, at which the first of them is predicted, does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.generation.generate import place_group, row_keys, write_rows
from atkd_jax.generation.prompts import bucket_length, check_positions
from atkd_jax.generation.rows import Knobs, Plan

Batch = dict[str, np.ndarray]


class Text(NamedTuple):
    """A prompt and an answer, as token ids."""

    prompt: list[int]
    answer: list[int]


def prompts_of_rows(batch: Batch) -> list[list[int]]:
    """Return the prompt of each row, which ends before the first token that counts; empty where none counts."""
    lengths = np.argmax(batch["loss_mask"], axis=1)
    return [row[:length].tolist() for row, length in zip(batch["tokens"], lengths, strict=True)]


def with_texts(batch: Batch, texts: Mapping[int, Text], *, padding_id: int) -> Batch:
    """Return the batch with other texts in some of its rows, cut off where a row is full, and `is_written` there.

    Args:
        batch: tokens, positions, segment_ids and loss_mask, `[rows, length]`.
        texts: row -> what stands in it instead.
        padding_id: fills a row up.
    """
    batch = {name: array.copy() for name, array in batch.items()}
    batch["is_written"] = np.zeros_like(batch["loss_mask"])
    room = batch["tokens"].shape[1]
    for row, (prompt, answer) in texts.items():
        tokens = [*prompt, *answer][:room]
        here = np.arange(room)
        batch["is_written"][row] = True
        batch["tokens"][row] = padding_id
        batch["tokens"][row, : len(tokens)] = tokens
        batch["segment_ids"][row] = here < len(tokens)
        batch["positions"][row] = np.where(here < len(tokens), here, 0)
        batch["loss_mask"][row] = (here >= len(prompt)) & (here < len(tokens))
    return batch


def with_corpus(batch: Batch, corpus: Batch) -> Batch:
    """Return the batch with a corpus's rows wherever no model wrote; both are of one shape."""
    written = batch["is_written"]
    return {"is_written": written} | {name: np.where(written, batch[name], rows) for name, rows in corpus.items()}


class RolloutWriter:
    """Writes answers to the prompts of a step, in rectangles of few sizes.

    Args:
        plan: who writes and how rows end.
        knobs: temperature and top-p.
        most_rows: no more prompts come at once; rectangles have half or all of so many rows.
        mesh: rows are split over its devices.
    """

    def __init__(self, plan: Plan, *, knobs: Knobs, most_rows: int, mesh: Mesh | None):
        self._plan, self._knobs, self._mesh = plan, knobs, mesh
        self._half = -(-most_rows // 2)
        self._sizes: set[tuple[int, int]] = set()

    @property
    def compilations(self) -> int:
        """How many sizes of rectangles there were; for each, a pass and a loop were compiled or read from the cache."""
        return len(self._sizes)

    def __call__(
        self, params: tuple[Any, ...], prompts: Sequence[Sequence[int]], key: jax.Array, numbers: Sequence[int]
    ) -> list[list[int]]:
        """Return the answers, an EOS kept.

        Args:
            params: the writers' weights as they are; they are read and not kept.
            prompts: at least one, of all processes, on each the same.
            key: of all, as in `generate`.
            numbers: the prompts' numbers, from which their keys come.

        Raises:
            InputError: where a prompt and its answer have more tokens than a writer has learned positions.
        """
        for graphdef, own in zip(self._plan.models, params, strict=True):
            check_positions(
                prompts,
                max_new_tokens=self._plan.ending.max_new_tokens,
                learned_positions=nnx.merge(graphdef, own).learned_positions,
            )
        count = -(-len(prompts) // self._half) * self._half
        pad_id = self._plan.ending.pad_id
        # A key for each row of the rectangle, so that nothing has a size of its own for each number of prompts.
        keys = row_keys(key, [*numbers, *[numbers[0]] * (count - len(numbers))])
        rows = place_group(prompts, keys, rows=count, pad_id=pad_id, mesh=self._mesh)
        self._sizes.add((count, bucket_length(max(map(len, prompts)))))
        return write_rows(self._plan, params, rows, knobs=self._knobs)[: len(prompts)]
