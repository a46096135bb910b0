"""What a teacher's cache says of itself: where its numbers come from, and what its files must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import ShardFacts, Shards, file_sha256, write_json, written_facts
from atkd_jax.errors import InputError

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2
_FINGERPRINTED_EXAMPLES = 64


@dataclass(frozen=True)
class Manifest:
    """What is beside the shards, as JSON.

    Attributes:
        settings: by dotted name, everything that the records depend on: the hashes of the teacher's weights, its config
            and its tokenizer, the data's fingerprint, how text becomes rows, and what is kept of a token.
        facts: what else is known, such as the teacher's name, or follows from the settings' hashes, as its softcap.
        shards: of each file, once all are written.
        head: of the file with the teacher's head, where hidden states are kept.
        format_version: of the records.
    """

    settings: dict[str, Any]
    facts: dict[str, Any]
    shards: tuple[ShardFacts, ...] = ()
    head: ShardFacts | None = None
    format_version: int = FORMAT_VERSION

    @property
    def is_complete(self) -> bool:
        """Whether every shard was written."""
        return bool(self.shards)

    @property
    def digest(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def all_files(self) -> tuple[ShardFacts, ...]:
        """The shards, and the head if there is one."""
        return self.shards if self.head is None else (*self.shards, self.head)

    @property
    def tokens(self) -> int:
        """How many counted tokens the cache has."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """How many bytes its shards have; the head is not among them."""
        return sum(shard.bytes for shard in self.shards)

    def files(self, directory: Path) -> Shards:
        """Returns how the examples are divided among the files."""
        return Shards(directory, self.settings["data.examples"], self.settings["cache.examples_per_shard"])

    def write(self, directory: Path) -> None:
        """Writes it, whole or not at all."""
        content = {"format_version": self.format_version, "settings": self.settings, "facts": self.facts}
        content["head"] = None if self.head is None else asdict(self.head)
        write_json(directory / MANIFEST_NAME, content | {"shards": [asdict(shard) for shard in self.shards]})


def read_manifest(directory: Path) -> Manifest | None:
    """Returns a directory's manifest, None where there is none.

    Raises:
        InputError: it cannot be read, or is of another version.
    """
    file = directory / MANIFEST_NAME
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version == FORMAT_VERSION:
            shards = tuple(ShardFacts(**shard) for shard in content["shards"])
            head = None if content["head"] is None else ShardFacts(**content["head"])
            return Manifest(content["settings"], content["facts"], shards, head, version)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} must be a cache's manifest, but cannot be read ({error}); make the cache anew in another "
            "directory."
        ) from error
    raise InputError(
        f"{file} has format_version={version}, but this program reads format_version={FORMAT_VERSION}; make the cache "
        "anew in another directory, or use the version of the program that made it."
    )


def complete_manifest(directory: Path) -> Manifest:
    """Returns the manifest of a cache whose shards are all there and of the size that it says.

    Raises:
        InputError: there is no cache, it was not finished, or a shard is missing or of another size.
    """
    manifest = read_manifest(directory)
    if manifest is None or not manifest.is_complete:
        what = "holds no cache" if manifest is None else "holds a cache that was not finished"
        raise InputError(
            f"teacher.cache {directory} {what}; run `launch.py cache` with the same config first, which goes on where "
            "it was stopped."
        )
    for shard in manifest.all_files:
        file = directory / shard.file
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size:,}"
            raise InputError(f"{file} must have {shard.bytes:,} bytes, but {found}; {_REMEDY}")
    return manifest


def verify_shards(directory: Path, manifest: Manifest, *, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Reads every file whole and compares its SHA-256 with the manifest's.

    Args:
        directory: The cache.
        manifest: Its manifest.
        on_progress: Is told how many files were read.

    Raises:
        InputError: naming every file that is not what was written.
    """
    damaged = []
    for number, shard in enumerate(manifest.all_files, start=1):
        file = directory / shard.file
        found = file_sha256(file) if file.is_file() else "none"
        if found != shard.sha256:
            damaged.append(f"{file} must have the SHA-256 {shard.sha256}, but has {found}")
        on_progress(number)
    if damaged:
        raise InputError(f"{'; '.join(damaged)}; {_REMEDY}")


def finished_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Returns the manifest with the facts of all shards, which must be there.

    Facts that were written beside a shard are newer than those of the manifest.
    """
    shards, known = manifest.files(directory), {shard.file: shard for shard in manifest.shards}
    found = []
    for number in range(shards.count):
        path = shards.path(number)
        found.append(written_facts(path) or known[path.name])
    return replace(manifest, shards=tuple(found))


def require_same_settings(directory: Path, manifest: Manifest, wanted: Mapping[str, Any]) -> None:
    """Refuses a cache that was made of something else.

    Args:
        directory: The cache.
        manifest: What it says of itself.
        wanted: What it must be, by dotted name; what is not named may be anything.

    Raises:
        InputError: naming every field that differs, with both values.
    """
    different = [
        f"{name} was {json.dumps(manifest.settings.get(name))} when it was made and is {json.dumps(value)} now"
        for name, value in wanted.items()
        if manifest.settings.get(name) != value
    ]
    if different:
        raise InputError(
            f"teacher.cache {directory} was made of something else ({'; '.join(different)}): set it as it was, or make "
            "another cache in another directory."
        )


def data_fingerprint(encoded: EncodedExamples) -> str:
    """Returns a hash of the tokens and masks of some examples, evenly spaced over the data."""
    digest = hashlib.sha256()
    for number in np.linspace(0, len(encoded) - 1, num=min(len(encoded), _FINGERPRINTED_EXAMPLES)).astype(int):
        example = encoded[int(number)]
        digest.update(f"{number}:{0 if example is None else example.checksum};".encode())
    return digest.hexdigest()


_REMEDY = "remove it and run `launch.py cache` with the same config, which makes what is missing again."
