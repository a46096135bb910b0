"""What every cache goes through, whoever its teacher is: begun with a manifest, ended with those of its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from atkd_jax import __version__
from atkd_jax.config import Config
from atkd_jax.data.cache_manifest import Manifest, finished_manifest, read_manifest, require_same_settings
from atkd_jax.data.record_shards import ShardFacts, written_facts
from atkd_jax.errors import InputError
from atkd_jax.sharding import gathered
from atkd_jax.teachers.cache_settings import format_of
from atkd_jax.training.shared_directory import require_shared_directory


def begun(
    config: Config,
    directory: Path,
    settings: dict[str, Any],
    facts: dict[str, Any],
    *,
    kept_head: Callable[[Manifest], ShardFacts | None] = lambda _: None,
) -> Manifest:
    """Returns the manifest of the cache that is there, or of a new one, which is then begun.

    Every process must call it.

    Args:
        config: The run.
        directory: The cache.
        settings: What its records depend on.
        facts: What else is known of the teacher.
        kept_head: Writes the teacher's head beside the records where they need it.

    Raises:
        InputError: another cache is there, or a number is out of range.
    """
    facts = {
        "teacher": config.teacher.model,
        "source": config.data.source,
        "split": config.data.train_split,
        "atkd_jax": __version__,
    } | facts
    format_of(Manifest(settings, facts))  # which refuses numbers that are out of range
    require_shared_directory(directory)
    there = read_manifest(directory)
    if there is not None:
        require_same_settings(directory, there, settings)
    else:
        _require_new(directory)
    manifest = there or Manifest(settings, facts)
    manifest = replace(manifest, head=kept_head(manifest))
    gathered(None)  # Nobody writes before all have seen what was there.
    if jax.process_index() == 0 and manifest != there:
        directory.mkdir(parents=True, exist_ok=True)
        manifest.write(directory)
    return manifest


def is_whole(directory: Path, manifest: Manifest) -> bool:
    """Returns whether every file of a cache is there, and none is newer than what the manifest says of it."""
    shards = manifest.files(directory)
    paths = [shards.path(shard) for shard in range(shards.count)]
    return manifest.is_complete and all(path.is_file() and written_facts(path) is None for path in paths)


def ended(directory: Path, manifest: Manifest) -> Manifest:
    """Returns the manifest of a cache whose last shard was written just now, and writes it."""
    gathered(None)  # Every process has finished its shards.
    manifest = finished_manifest(directory, manifest)
    gathered(None)  # Every process has read the facts beside them.
    if jax.process_index() == 0:
        manifest.write(directory)
        for shard in manifest.shards:
            (directory / shard.file).with_suffix(".json").unlink(missing_ok=True)
    return manifest


def told(manifest: Manifest) -> str:
    """Returns what a cache holds, in words."""
    each = manifest.bytes / max(manifest.tokens, 1)
    kind = manifest.settings["cache.kind"]
    return (
        f"{kind} of {manifest.tokens:,} counted tokens of {manifest.settings['data.examples']:,} examples, "
        f"{manifest.bytes / 1e6:,.1f} MB in {len(manifest.shards)} files, {each:,.1f} bytes a token"
    )


def _require_new(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.glob("signal-*"))):
        raise InputError(
            f"teacher.cache {directory} must be a directory for a cache, but is a file or holds records without a "
            "manifest; name another one."
        )
