"""Records by example number in ArrayRecord shards: written in order, gone on with after a kill, checked when read.

A shard that is being written is a journal of whole records. When its last record is there it becomes an ArrayRecord
file, in one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from atkd_jax.errors import InputError

# A group is what must be read for a record of it.
_WRITER_OPTIONS = "group_size:1,zstd:1"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_HEADER = struct.Struct("<QII")
_CHECKSUM = struct.Struct("<I")
_FRAME = struct.Struct("<II")
_OPEN_FILES = 512


class Record(NamedTuple):
    """What is kept of one example.

    Attributes:
        example: its number in the data.
        tokens_checksum: of its tokens and mask, see `EncodedExample.checksum`; 0 of one that was dropped.
        counted_tokens: how many of its tokens are targets.
        payload: what is known of them.
    """

    example: int
    tokens_checksum: int
    counted_tokens: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """Returns the record with a checksum before it."""
        content = _HEADER.pack(self.example, self.tokens_checksum, self.counted_tokens) + self.payload
        return _CHECKSUM.pack(zlib.crc32(content)) + content

    @staticmethod
    def from_bytes(data: bytes) -> Record | None:
        """Returns the record, or None where a byte is not what it was."""
        if len(data) < _CHECKSUM.size + _HEADER.size or zlib.crc32(data[4:]) != _CHECKSUM.unpack_from(data)[0]:
            return None
        example, tokens_checksum, counted_tokens = _HEADER.unpack_from(data, _CHECKSUM.size)
        return Record(example, tokens_checksum, counted_tokens, data[_CHECKSUM.size + _HEADER.size :])


@dataclass(frozen=True)
class ShardFacts:
    """What the manifest says of a finished shard.

    Attributes:
        file: its name.
        records: how many examples it has.
        tokens: how many counted tokens.
        bytes: its size.
        sha256: of the file.
    """

    file: str
    records: int
    tokens: int
    bytes: int
    sha256: str


class Shards(NamedTuple):
    """How examples are divided among files.

    Attributes:
        directory: where the files are.
        examples: in the data.
        examples_per_shard: consecutive ones, in every file but the last.
    """

    directory: Path
    examples: int
    examples_per_shard: int

    @property
    def count(self) -> int:
        """How many files there are."""
        return -(-self.examples // self.examples_per_shard)

    def examples_of(self, shard: int) -> range:
        """Returns the numbers of the examples of a file."""
        first = shard * self.examples_per_shard
        return range(first, min(first + self.examples_per_shard, self.examples))

    def path(self, shard: int) -> Path:
        """Returns where a finished file is."""
        return self.directory / f"signal-{shard:05}-of-{self.count:05}.array_record"

    def journal(self, shard: int) -> Path:
        """Returns where the records of a file in the making are."""
        return self.path(shard).with_suffix(".journal")

    def is_finished(self, shard: int) -> bool:
        """Returns whether a file is whole."""
        return self.path(shard).is_file()


class ShardWriter:
    """Writes one shard's records, in the order of their examples, from where an earlier writer was stopped."""

    def __init__(self, shards: Shards, shard: int):
        """Opens the journal and keeps others from it; what a kill left half written at its end is cut off.

        Raises:
            InputError: another process writes it.
        """
        self._shards, self._shard = shards, shard
        self._journal = shards.journal(shard)
        self._file = self._journal.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(
                f"{self._journal} is being written by another process; wait for it, or name another directory."
            ) from None
        # Counted only now, since its last owner may have written until a moment ago.
        self.done, end = journal_position(shards, shard)
        self._file.truncate(end)

    def append(self, record: Record) -> None:
        """Writes the next record; the last one finishes the shard."""
        numbers = self._shards.examples_of(self._shard)
        if record.example != numbers[self.done]:
            raise ValueError(f"The next record is of example {numbers[self.done]}, but {record.example} came.")
        content = record.to_bytes()
        self._file.write(_FRAME.pack(len(content), zlib.crc32(content)) + content)
        self.done += 1

    def flush(self) -> None:
        """Sees to it that a kill of this process loses nothing of what was appended."""
        self._file.flush()

    @property
    def is_full(self) -> bool:
        """Whether every record is there."""
        return self.done == len(self._shards.examples_of(self._shard))

    def finish(self) -> None:
        """Turns the full journal into an ArrayRecord file, with its facts beside it."""
        self._file.flush()
        path = self._shards.path(self._shard)
        growing = path.with_suffix(".growing")
        writer = ArrayRecordWriter(str(growing), _WRITER_OPTIONS)
        records = tokens = 0
        for record, _ in _journal_records(self._journal):
            writer.write(record.to_bytes())
            records, tokens = records + 1, tokens + record.counted_tokens
        writer.close()
        facts = ShardFacts(path.name, records, tokens, growing.stat().st_size, file_sha256(growing))
        write_json(path.with_suffix(".json"), asdict(facts))
        with growing.open("rb") as file:
            os.fsync(file.fileno())
        growing.replace(path)
        self._journal.unlink()
        self._file.close()

    def close(self) -> None:
        """Leaves the shard as it is."""
        self._file.close()


def journal_position(shards: Shards, shard: int) -> tuple[int, int]:
    """Returns how many of a shard's records stand in its journal, whole and in order, and where they end."""
    done, end = 0, 0
    numbers = shards.examples_of(shard)
    for record, end_of_record in _journal_records(shards.journal(shard)):
        if done == len(numbers) or record.example != numbers[done]:
            break
        done, end = done + 1, end_of_record
    return done, end


def written_facts(path: Path) -> ShardFacts | None:
    """Returns what `ShardWriter.finish` left beside a shard, if it is still there."""
    file = path.with_suffix(".json")
    return ShardFacts(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


class RecordReader:
    """Reads the records of finished shards by the number of their example."""

    def __init__(self, shards: Shards):
        """Opens no file yet."""
        self._shards = shards
        self._readers: dict[int, ArrayRecordReader] = {}

    def __getitem__(self, example: int) -> Record:
        """Returns a record.

        Raises:
            InputError: its file is missing or damaged.
        """
        shard, place = divmod(example, self._shards.examples_per_shard)
        path = self._shards.path(shard)
        try:
            record = Record.from_bytes(self._reader(shard, path).read([place])[0])
        except (RuntimeError, IndexError, ValueError, OSError) as error:
            raise InputError(_damaged(path, " ".join(str(error).split())[:200])) from error
        if record is None or record.example != example:
            raise InputError(_damaged(path, f"the record of example {example} is not what was written"))
        return record

    def _reader(self, shard: int, path: Path) -> ArrayRecordReader:
        reader = self._readers.pop(shard, None) or ArrayRecordReader(str(path), options=_READER_OPTIONS)
        self._readers[shard] = reader  # The last in the dictionary is the one that was read last.
        while len(self._readers) > _OPEN_FILES:
            self._readers.pop(next(iter(self._readers))).close()
        return reader

    def close(self) -> None:
        """Closes the files."""
        while self._readers:
            self._readers.popitem()[1].close()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: object) -> None:
    """Writes a file of JSON that is there whole or not at all."""
    growing = path.with_name(f"{path.name}.growing")
    growing.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    growing.replace(path)


def _journal_records(path: Path) -> Iterator[tuple[Record, int]]:
    """Yields a journal's whole records and where each ends."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        end = 0
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            length, checksum = _FRAME.unpack(frame)
            content = file.read(length)
            record = Record.from_bytes(content) if zlib.crc32(content) == checksum else None
            if len(content) < length or record is None:
                return
            end += _FRAME.size + length
            yield record, end


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} must be as `cache` wrote it, but is missing or damaged ({why}); remove it and run `launch.py cache` "
        "with the same config, which makes what is missing again."
    )
