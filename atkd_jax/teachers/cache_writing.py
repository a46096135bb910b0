"""The teacher over all examples, batch after batch, into the shards of a cache; it goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from atkd_jax.data.encoding import EncodedExample, EncodedExamples
from atkd_jax.data.filled_rows import filled_rows
from atkd_jax.data.record_shards import Record, Shards, ShardWriter, journal_position
from atkd_jax.data.rows import batch_of_rows
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.sharding import gathered, own_rows, row_share, shard_batch


class Batching(NamedTuple):
    """How examples become batches.

    Attributes:
        batch_size: rows of a global batch.
        sequence_length: tokens in a row.
        packing: whether examples share a row.
        padding_id: fills rows up.
    """

    batch_size: int
    sequence_length: int
    packing: bool
    padding_id: int


def write_shards(
    shards: Shards,
    encoded: EncodedExamples,
    *,
    form: SignalFormat,
    extract: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    batching: Batching,
    mesh: Mesh,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes every record that is missing and returns how many counted tokens that were, over all processes.

    Each process, or group of processes that share their rows, writes shards of its own; all must call it, and run the
    same number of batches. A kill loses the batches in flight and nothing that was written.

    Args:
        shards: Where to.
        encoded: The examples.
        form: What is kept.
        extract: A batch -> what the teacher says of it, see `make_extraction`.
        batching: How examples become batches.
        mesh: Where the batches lie.
        on_progress: Is told how many examples are done, of all processes.
    """
    share = row_share(mesh)
    own = [number for number in range(share.index, shards.count, share.count) if not shards.is_finished(number)]
    with closing(_Output(shards, own, form, writes=share.is_first)) as output:
        everyone = {int(shard): done for each in gathered(output.done) for shard, done in each.items()}
        numbers = [number for shard in own for number in shards.examples_of(shard)[everyone[shard] :]]
        # No row has more examples than tokens.
        most = batching.batch_size * batching.sequence_length
        waiting: _Batch | None = None
        tokens = start = 0
        while True:
            unread = len(numbers) - start
            in_flight = 0 if waiting is None else len(waiting.numbers)
            everyone_unread, left = zip(*gathered((unread, (unread + in_flight) * share.is_first)), strict=True)
            on_progress(shards.examples - sum(left))
            if not sum(left):
                return sum(gathered(tokens))
            batch = None
            if any(everyone_unread):
                batch = _next_batch(encoded, numbers[start : start + most], batching, mesh)
                start += len(batch.numbers)
                batch = batch._replace(found=extract(shard_batch(mesh, batch.arrays)))
            # While the devices are at this batch, the one before goes to disk.
            if waiting is not None:
                tokens += output.write(waiting, encoded, mesh)
            waiting = batch


class _Batch(NamedTuple):
    """A batch on its way: the numbers of its examples, where they stand, and what the teacher says of them."""

    numbers: list[int]
    rows: list[list[EncodedExample]]
    arrays: dict[str, np.ndarray]
    found: Mapping[str, jax.Array]


def _next_batch(encoded: EncodedExamples, numbers: list[int], batching: Batching, mesh: Mesh) -> _Batch:
    rows, done = filled_rows(
        encoded,
        numbers,
        row_count=batching.batch_size // row_share(mesh).count,
        sequence_length=batching.sequence_length,
        packing=batching.packing,
    )
    arrays: dict[str, Any] = dict(
        batch_of_rows(rows, sequence_length=batching.sequence_length, padding_id=batching.padding_id)
    )
    arrays["example_numbers"] = np.zeros(arrays["tokens"].shape, np.int32)
    for row, examples in enumerate(rows):
        lengths = [len(example.tokens) for example in examples]
        stands = np.repeat([example.number for example in examples], lengths).astype(np.int32)
        arrays["example_numbers"][row, : sum(lengths)] = stands
    return _Batch(numbers[:done], rows, arrays, {})


class _Output:
    """A process's shards that are not finished."""

    def __init__(self, shards: Shards, own: list[int], form: SignalFormat, *, writes: bool):
        self._shards, self._form, self._writes = shards, form, writes
        self._writer: ShardWriter | None = None
        self._queue = list(own)
        self.done: dict[int, int] = {}
        for shard in own if writes else []:
            self.done[shard] = journal_position(shards, shard)[0]
            if self.done[shard] == len(shards.examples_of(shard)):  # killed just before it became a file
                ShardWriter(shards, shard).finish()
                self._queue.remove(shard)

    def write(self, batch: _Batch, encoded: EncodedExamples, mesh: Mesh) -> int:
        """Writes a batch's records, in the order of their examples, and returns how many counted tokens they have."""
        if not self._writes:
            return 0
        arrays = {name: own_rows(mesh, array) for name, array in batch.found.items()}
        places = {}
        for row, examples in enumerate(batch.rows):
            start = 0
            for example in examples:
                # A token is predicted by the position before it.
                places[example.number] = row, start + np.flatnonzero(example.loss_mask) - 1
                start += len(example.tokens)
        tokens = 0
        for number in batch.numbers:
            example = encoded[number]
            if example is None:
                self._append(Record(number, 0, 0, b""))
                continue
            row, own = places[number]
            payload = self._form.encode({name: array[row, own] for name, array in arrays.items()})
            self._append(Record(number, example.checksum, len(own), payload))
            tokens += len(own)
        if self._writer is not None:
            self._writer.flush()
        return tokens

    def _append(self, record: Record) -> None:
        if self._writer is None:
            self._writer = ShardWriter(self._shards, self._queue.pop(0))
        self._writer.append(record)
        if self._writer.is_full:
            self._writer.finish()
            self._writer = None

    def close(self) -> None:
        """Leaves a shard that is not full as it is."""
        if self._writer is not None:
            self._writer.close()
