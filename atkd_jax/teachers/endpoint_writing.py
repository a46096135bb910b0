"""A served teacher's answers, example after example, into the shards of a cache; it goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable

from atkd_jax.data.encoding import EncodedExample, EncodedExamples
from atkd_jax.data.record_shards import Record, Shards, ShardWriter, journal_position
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.teachers.endpoint import Arrays, EndpointTeacher


def write_served_shards(
    shards: Shards,
    encoded: EncodedExamples,
    *,
    form: SignalFormat,
    teacher: EndpointTeacher,
    process_index: int = 0,
    process_count: int = 1,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes every record that this process's shards lack, and returns how many counted tokens that were.

    A record is written as soon as it and all before it are there: what a kill or a failure loses are the answers to
    requests in flight, which are asked for again.

    Args:
        shards: Where to; process p of P writes every P-th of them, from number p on.
        encoded: The examples.
        form: What is kept, of kind top_k.
        teacher: Who is asked.
        process_index: The number of this process.
        process_count: How many processes there are.
        on_progress: Is told how many examples of this process's shards are done.

    Raises:
        EndpointError: a request was not answered; what came before it is written.
        InputError: the server refuses, or answers of something else.
    """
    own = range(process_index, shards.count, process_count)
    missing: list[tuple[int, int]] = []
    done = 0
    for shard in own:
        numbers = shards.examples_of(shard)
        written = len(numbers) if shards.is_finished(shard) else _written(shards, shard)
        done += written
        missing += [(shard, number) for number in numbers[written:]]
    on_progress(done)
    writer: ShardWriter | None = None
    tokens = 0
    try:
        answers = teacher.in_order(encoded[number] for _, number in missing)
        for (shard, number), (example, arrays) in zip(missing, answers, strict=True):
            writer = writer or ShardWriter(shards, shard)
            record = _record(number, example, arrays, form)
            writer.append(record)
            writer.flush()
            tokens, done = tokens + record.counted_tokens, done + 1
            on_progress(done)
            if writer.is_full:
                writer.finish()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    return tokens


def _written(shards: Shards, shard: int) -> int:
    """Returns how many records a shard's journal has; a full one, which a kill left, becomes a file."""
    done = journal_position(shards, shard)[0]
    if done == len(shards.examples_of(shard)):
        ShardWriter(shards, shard).finish()
    return done


def _record(number: int, example: EncodedExample | None, arrays: Arrays | None, form: SignalFormat) -> Record:
    if example is None or arrays is None:
        return Record(number, 0, 0, b"")
    return Record(number, example.checksum, len(example.targets), form.encode(arrays))
