"""The rows of one process as a Grain data set, whose elements are batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grain

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.row_stream import RowStream
from atkd_jax.data.rows import Batch, batch_of_rows

Signals = Callable[[Sequence[Sequence[EncodedExample]]], Batch]


class RowBatches(grain.IterDataset):
    """An endless data set of batches: each takes the next row of some of the global batch's row streams.

    Args:
        ordered: encoded examples, see `RowStream`.
        rows: which rows of the global batch to read.
        row_count: rows in the global batch.
        sequence_length: tokens in a row.
        packing: whether examples share a row.
        padding_id: the id that fills a row up.
        signals: gives further arrays of a batch's rows, what a cached teacher says of them, or None.
        teacher_padding_id: likewise for the teacher, where the examples hold its own tokens.
    """

    def __init__(
        self,
        ordered: grain.MapDataset,
        *,
        rows: range,
        row_count: int,
        sequence_length: int,
        packing: bool,
        padding_id: int,
        signals: Signals | None = None,
        teacher_padding_id: int | None = None,
    ):
        super().__init__()
        self._ordered = ordered
        self._rows = rows
        self._stream_settings = {"row_count": row_count, "sequence_length": sequence_length, "packing": packing}
        self._batch_settings: dict[str, Any] = {
            "sequence_length": sequence_length,
            "padding_id": padding_id,
            "teacher_padding_id": teacher_padding_id,
        }
        self._signals = signals

    def __iter__(self) -> RowBatchesIterator:
        streams = [RowStream(self._ordered, row=row, **self._stream_settings) for row in self._rows]
        return RowBatchesIterator(streams, self._batch_settings, self._signals)


class RowBatchesIterator(grain.DatasetIterator):
    """Batches of the next row of every stream; its state is the list of theirs.

    After an error some streams stand further than others, so the error is raised again until the state is set: to go
    on would skip examples without a word.
    """

    def __init__(self, streams: list[RowStream], batch_settings: dict[str, Any], signals: Signals | None = None):
        super().__init__()
        self._streams = streams
        self._batch_settings = batch_settings
        self._signals = signals
        self._failure: Exception | None = None

    def __next__(self) -> Batch:
        if self._failure is not None:
            raise self._failure
        try:
            rows = [next(stream) for stream in self._streams]
            further = {} if self._signals is None else self._signals(rows)
        except Exception as error:
            self._failure = error
            raise
        return batch_of_rows(rows, **self._batch_settings) | further

    def get_state(self) -> dict[str, Any]:
        """Returns the states of the rows, by `RowStream.get_state`."""
        return {"rows": [stream.get_state() for stream in self._streams]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called."""
        self._failure = None
        for stream, row_state in zip(self._streams, state["rows"], strict=True):
            stream.set_state(row_state)
