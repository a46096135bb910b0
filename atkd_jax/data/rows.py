"""Rows of a batch as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError

Batch = dict[str, np.ndarray]


def batch_of_rows(rows: Sequence[Sequence[EncodedExample]], *, sequence_length: int, padding_id: int) -> Batch:
    """Returns the arrays of a batch, each [rows, sequence_length].

    - `tokens` int32: the examples one after another from the left, then `padding_id`.
    - `positions` int32: 0, 1, ... from the start of each example; 0 in padding.
    - `segment_ids` int32: 1, 2, ... for a row's examples; 0 is padding.
    - `loss_mask` bool: true where this token is a target, that is in a response or its closing token. It is not
      shifted. The first token of an example is never a target.

    Args:
        rows: the examples of each row, which fit into it; a row may be empty.
        sequence_length: tokens in a row.
        padding_id: the id that fills a row up.
    """
    shape = (len(rows), sequence_length)
    batch = {
        "tokens": np.full(shape, padding_id, np.int32),
        "positions": np.zeros(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "loss_mask": np.zeros(shape, np.bool_),
    }
    for row, examples in enumerate(rows):
        start = 0
        for segment, example in enumerate(examples, start=1):
            place = (row, slice(start, start + len(example.tokens)))
            batch["tokens"][place] = example.tokens
            batch["positions"][place] = np.arange(len(example.tokens), dtype=np.int32)
            batch["segment_ids"][place] = segment
            batch["loss_mask"][place] = example.loss_mask
            start += len(example.tokens)
    return batch


def rows_of_process(batch_size: int, *, process_index: int, process_count: int, setting: str) -> range:
    """Returns which rows of a global batch a process has: an equal share, in the order of the processes.

    Args:
        batch_size: rows in the global batch.
        process_index: the number of this process.
        process_count: how many processes there are.
        setting: the name of the setting that the batch size comes from, for the error.

    Raises:
        InputError: the rows cannot be divided equally.
    """
    if batch_size % process_count:
        raise InputError(
            f"{setting}={batch_size} cannot be divided among {process_count} processes: make it a multiple of that."
        )
    share = batch_size // process_count
    return range(process_index * share, (process_index + 1) * share)
