"""`launch.py cache`: what the teacher says of the training data, written once for many runs; `--verify` reads it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.experimental import multihost_utils
from rich.console import Console

from atkd_jax import __version__
from atkd_jax.commands.joining import join
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.verbs import CacheOptions
from atkd_jax.config import Config
from atkd_jax.data import Template, open_source
from atkd_jax.data.cache_manifest import (
    Manifest,
    complete_manifest,
    finished_manifest,
    read_manifest,
    require_same_settings,
    verify_shards,
)
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import ShardFacts
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_model
from atkd_jax.models import quantize_in_place
from atkd_jax.sharding import gathered, make_meshes
from atkd_jax.teachers import LoadedTeacher, load_teacher
from atkd_jax.teachers.cache_settings import format_of, new_settings, source_settings
from atkd_jax.teachers.cache_writing import Batching, write_shards
from atkd_jax.teachers.cached import HEAD_NAME, write_head
from atkd_jax.teachers.extraction import make_extraction
from atkd_jax.training.compiled_step import require_even_batch
from atkd_jax.training.placement import placing_on
from atkd_jax.training.shared_directory import require_shared_directory, turn_on_this_host


def run(options: CacheOptions) -> None:
    """Writes what is missing of the cache, or verifies it.

    Raises:
        InputError: teacher.cache is not set, or holds another cache, or with `--verify` a file is not what was written.
    """
    config = join(options.settings)
    console = Console(quiet=jax.process_index() != 0)
    directory = config.teacher.cache
    if directory is None:
        raise InputError("cache: teacher.cache must name the directory that the cache is written to; give one.")
    if options.verify:
        _verify(directory, console)
    else:
        make_cache(config, directory, console=console)


def make_cache(config: Config, directory: Path, *, console: Console) -> Manifest:
    """Writes a cache, or what is missing of it, and returns its manifest; every process must call it."""
    report = partial(console.print, highlight=False, soft_wrap=True)
    meshes = make_meshes(**config.mesh.model_dump())
    require_even_batch(config, meshes)
    mesh = meshes.teacher
    with turn_on_this_host(config.cache_dir):
        fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=report)
        examples = open_source(config.data.source, split=config.data.train_split, cache_dir=config.cache_dir)
    teacher = load_teacher(config.teacher, cache_dir=config.cache_dir, place=placing_on(mesh), report=report)
    if config.teacher.quantize is not None:
        quantize_in_place(teacher.model, config.teacher.quantize, place=placing_on(mesh))
    form = Template(config.data.template, teacher.tokenizer)
    encoded = EncodedExamples(
        examples, template=form, sequence_length=config.data.sequence_length, overlong=config.data.overlong
    )
    source = source_settings(config, directory=teacher.directory, tokenizer=teacher.tokenizer, encoded=encoded)
    manifest = _begun(config, directory, teacher, source)
    shards = manifest.files(directory)
    if manifest.is_complete and all(shards.is_finished(shard) for shard in range(shards.count)):
        report(f"{directory} is whole already: {_facts(manifest)}.")
        return manifest
    began = time.monotonic()
    graphdef, params = nnx.split(teacher.model)
    kept = format_of(manifest)
    chunk_tokens = config.training.chunk_tokens
    extract = make_extraction(
        graphdef, kept, seed=manifest.settings["cache.seed"], chunk_tokens=chunk_tokens, mesh=mesh
    )
    lengths = config.training.batch_size, config.data.sequence_length
    with progress_line(console, "examples", total=len(encoded)) as on_progress:
        tokens = write_shards(
            shards,
            encoded,
            form=kept,
            extract=partial(extract, params),
            batching=Batching(*lengths, config.data.packing, form.padding_id),
            mesh=mesh,
            on_progress=on_progress,
        )
    seconds = time.monotonic() - began
    manifest = _ended(directory, manifest)
    report(f"{directory} is whole: {_facts(manifest)}; {tokens / seconds:,.0f} counted tokens a second.")
    return manifest


def _begun(config: Config, directory: Path, teacher: LoadedTeacher, source: dict[str, Any]) -> Manifest:
    """Returns the manifest of the cache that is there, or of a new one, which is then begun."""
    vocab_size, width = len(teacher.tokenizer), teacher.model.config.head_width
    settings = new_settings(config, source=source, vocab_size=vocab_size, width=width)
    facts = {
        "teacher": config.teacher.model,
        "source": config.data.source,
        "split": config.data.train_split,
        "atkd_jax": __version__,
        "logit_softcap": teacher.model.logit_softcap,
    }
    format_of(Manifest(settings, facts))  # which refuses numbers that are out of range
    require_shared_directory(directory)
    there = read_manifest(directory)
    if there is not None:
        require_same_settings(directory, there, settings)
    else:
        _require_new(directory)
    manifest = there or Manifest(settings, facts)
    manifest = replace(manifest, head=_kept_head(directory, teacher, manifest))
    gathered(None)  # Nobody writes before all have seen what was there.
    if jax.process_index() == 0 and manifest != there:
        directory.mkdir(parents=True, exist_ok=True)
        manifest.write(directory)
    return manifest


def _kept_head(directory: Path, teacher: LoadedTeacher, manifest: Manifest) -> ShardFacts | None:
    """Returns the facts of the file with the teacher's head, which is written where it is needed and not there."""
    if manifest.settings["cache.kind"] != "hidden":
        return None
    if manifest.head is not None and (directory / HEAD_NAME).is_file():
        return manifest.head
    head = teacher.model.head_matrix()[:, : manifest.settings["vocab_size"]]
    if jax.process_count() > 1:
        head = multihost_utils.process_allgather(head, tiled=True)
    facts = None
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        facts = write_head(directory, head)
    known = gathered(facts and facts.__dict__)[0]
    return ShardFacts(**known)


def _ended(directory: Path, manifest: Manifest) -> Manifest:
    """Returns the manifest of a cache whose last shard was written just now, and writes it."""
    gathered(None)  # Every process has finished its shards.
    manifest = finished_manifest(directory, manifest)
    gathered(None)  # Every process has read the facts beside them.
    if jax.process_index() == 0:
        manifest.write(directory)
        for shard in manifest.shards:
            (directory / shard.file).with_suffix(".json").unlink(missing_ok=True)
    return manifest


def _verify(directory: Path, console: Console) -> None:
    manifest = complete_manifest(directory)
    if jax.process_index() == 0:
        with progress_line(console, "files", total=len(manifest.all_files)) as on_progress:
            verify_shards(directory, manifest, on_progress=on_progress)
    console.print(f"{directory} is as it was written: {_facts(manifest)}.", highlight=False, soft_wrap=True)


def _facts(manifest: Manifest) -> str:
    each = manifest.bytes / max(manifest.tokens, 1)
    kind = manifest.settings["cache.kind"]
    return (
        f"{kind} of {manifest.tokens:,} counted tokens of {manifest.settings['data.examples']:,} examples, "
        f"{manifest.bytes / 1e6:,.1f} MB in {len(manifest.shards)} files, {each:,.1f} bytes a token"
    )


def _require_new(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.glob("*.journal"))):
        raise InputError(
            f"teacher.cache {directory} must be a directory for a cache, but is a file or holds records without a "
            "manifest; name another one."
        )
