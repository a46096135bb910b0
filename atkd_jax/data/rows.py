"""Rows of a batch as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError

Batch = dict[str, np.ndarray]


def batch_of_rows(
    rows: Sequence[Sequence[EncodedExample]],
    *,
    sequence_length: int,
    padding_id: int,
    teacher_padding_id: int | None = None,
) -> Batch:
    """Returns the arrays of a batch, each [rows, sequence_length].

    - `tokens` int32: the examples one after another from the left, then `padding_id`.
    - `positions` int32: 0, 1, ... from the start of each example; 0 in padding.
    - `segment_ids` int32: 1, 2, ... for a row's examples; 0 is padding.
    - `loss_mask` bool: true where this token is a target, that is in a response or its closing token. It is not
      shifted. The first token of an example is never a target.

    Where the teacher reads the text in its own tokens, `teacher_tokens`, `teacher_positions` and `teacher_segment_ids`
    are the same of those, in rows of their own, and

    - `teacher_index` int32: for each of the student's tokens the place in the teacher's row of the token that goes with
      it as a target, 0 where there is none.

    Args:
        rows: the examples of each row, which fit into it; a row may be empty.
        sequence_length: tokens in a row.
        padding_id: the id that fills a row up.
        teacher_padding_id: likewise for the teacher, where it has a tokenizer of its own.
    """
    shape = (len(rows), sequence_length)
    batch = _empty_inputs(shape, padding_id) | {"loss_mask": np.zeros(shape, np.bool_)}
    if teacher_padding_id is not None:
        own = _empty_inputs(shape, teacher_padding_id)
        batch |= {f"teacher_{name}": array for name, array in own.items()}
        batch["teacher_index"] = np.zeros(shape, np.int32)
    for row, examples in enumerate(rows):
        start = teacher_start = 0
        for segment, example in enumerate(examples, start=1):
            place = (row, slice(start, start + len(example.tokens)))
            _write(batch, "", place, example.tokens, segment)
            batch["loss_mask"][place] = example.loss_mask
            if teacher_padding_id is not None:
                assert example.teacher is not None
                tokens, places = example.teacher
                _write(batch, "teacher_", (row, slice(teacher_start, teacher_start + len(tokens))), tokens, segment)
                batch["teacher_index"][place] = np.where(places > 0, teacher_start + places, 0)
                teacher_start += len(tokens)
            start += len(example.tokens)
    return batch


def _empty_inputs(shape: tuple[int, int], padding_id: int) -> Batch:
    positions, segment_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    return {"tokens": np.full(shape, padding_id, np.int32), "positions": positions, "segment_ids": segment_ids}


def _write(batch: Batch, prefix: str, place: tuple[int, slice], tokens: np.ndarray, segment: int) -> None:
    batch[f"{prefix}tokens"][place] = tokens
    batch[f"{prefix}positions"][place] = np.arange(len(tokens), dtype=np.int32)
    batch[f"{prefix}segment_ids"][place] = segment


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
