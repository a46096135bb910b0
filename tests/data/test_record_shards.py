import dataclasses
import json

import numpy as np
import pytest

from atkd_jax.data import record_shards
from atkd_jax.data.record_shards import Record, RecordReader, Shards, ShardWriter, file_sha256, written_facts
from atkd_jax.errors import InputError

EXAMPLES, PER_SHARD = 13, 5


def record(number):
    payload = np.random.default_rng(number).bytes(40 + 7 * number)
    return Record(number, 1000 + number, number % 4, payload)


@pytest.fixture
def shards(tmp_path):
    return Shards(tmp_path, EXAMPLES, PER_SHARD)


def write(shards, shard, upto=None):
    """Writes a shard's records that are missing, or those before `upto`; returns how many were there already."""
    writer = ShardWriter(shards, shard)
    there = writer.done
    for number in shards.examples_of(shard)[writer.done : upto]:
        writer.append(record(number))
    if writer.is_full:
        writer.finish()
    else:
        writer.close()
    return there


def test_every_example_is_in_one_shard(shards):
    assert [number for shard in range(shards.count) for number in shards.examples_of(shard)] == list(range(EXAMPLES))


def test_records_come_back_by_number(shards):
    for shard in range(shards.count):
        write(shards, shard)
    reader = RecordReader(shards)
    assert [reader[number] for number in (12, 0, 7)] == [record(12), record(0), record(7)]
    reader.close()


def test_a_shard_has_its_facts_beside_it(shards):
    write(shards, 1)
    path = shards.path(1)
    facts = written_facts(path)
    assert facts is not None
    expected = {"file": path.name, "records": 5, "tokens": 1 + 2 + 3 + 0 + 1, "bytes": path.stat().st_size}
    assert dataclasses.asdict(facts) == expected | {"sha256": file_sha256(path)}
    assert json.loads(path.with_suffix(".json").read_text())["records"] == 5
    assert not path.with_suffix(".journal").exists()


def test_a_writer_goes_on_at_the_record_where_another_was_killed(shards):
    write(shards, 0, upto=3)
    journal = shards.path(0).with_suffix(".journal")
    whole = journal.read_bytes()
    # A kill may leave any part of the third record.
    for end in range(len(whole) - 1, len(whole) - len(record(2).to_bytes()), -9):
        journal.write_bytes(whole[:end])
        writer = ShardWriter(shards, 0)
        assert writer.done == 2
        writer.close()
    assert write(shards, 0) == 2
    reader = RecordReader(shards)
    assert [reader[number] for number in range(5)] == [record(number) for number in range(5)]
    reader.close()


def test_a_damaged_journal_is_gone_on_with_before_the_damage(shards):
    write(shards, 0, upto=4)
    journal = shards.path(0).with_suffix(".journal")
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    assert 0 < write(shards, 0) < 4
    reader = RecordReader(shards)
    assert reader[3] == record(3)
    reader.close()


def test_records_are_written_in_order(shards):
    writer = ShardWriter(shards, 1)
    with pytest.raises(ValueError, match="The next record is of example 5, but 6 came"):
        writer.append(record(6))
    writer.close()


def test_a_flipped_byte_is_found_at_reading(shards):
    write(shards, 1)
    path = shards.path(1)
    content = path.read_bytes()
    start = content.index(record(7).payload[:20])
    for place in (start, start + 30):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{path.name} must be as `cache` wrote it, but is missing or damaged"):
            RecordReader(shards)[7]


def test_a_missing_file_is_named(shards):
    with pytest.raises(InputError, match=r"signal-00002-of-00003.array_record must be as `cache` wrote it"):
        RecordReader(shards)[11]


def test_a_record_knows_a_byte_that_changed():
    content = record(3).to_bytes()
    assert Record.from_bytes(content) == record(3)
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 128
        assert Record.from_bytes(bytes(damaged)) is None
    assert Record.from_bytes(content[:10]) is None


def test_two_writers_do_not_share_a_journal(shards):
    writer = ShardWriter(shards, 1)
    writer.append(record(5))
    with pytest.raises(InputError, match=r"signal-00001-of-00003.journal is being written by another process"):
        ShardWriter(shards, 1)
    writer.close()
    assert write(shards, 1) == 1


def test_of_more_files_than_are_kept_open_every_record_is_read(shards, monkeypatch):
    monkeypatch.setattr(record_shards, "_OPEN_FILES", 2)
    for shard in range(shards.count):
        write(shards, shard)
    reader = RecordReader(shards)
    for number in (0, 5, 1, 10, 2, 6, 11, 0, 12):
        assert reader[number] == record(number)
    reader.close()
