"""`launch.py cache`: what the teacher says of the training data, written once for many runs; `--verify` reads it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import jax
from flax import nnx
from jax.experimental import multihost_utils
from rich.console import Console

from atkd_jax.commands.cache_files import begun, ended, is_whole, told
from atkd_jax.commands.joining import join
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.served_cache import make_served_cache
from atkd_jax.commands.verbs import CacheOptions
from atkd_jax.config import Config
from atkd_jax.data import Template, open_source
from atkd_jax.data.cache_manifest import (
    Manifest,
    complete_manifest,
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
from atkd_jax.training.shared_directory import turn_on_this_host
from atkd_jax.training.teaching import require_servable


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
    elif config.teacher.endpoint is not None:
        make_served_cache(config, directory, console=console)
    else:
        make_cache(config, directory, console=console)


def make_cache(config: Config, directory: Path, *, console: Console) -> Manifest:
    """Writes a cache, or what is missing of it, and returns its manifest; every process must call it."""
    report = partial(console.print, highlight=False, soft_wrap=True)
    meshes = make_meshes(**config.mesh.model_dump())
    require_even_batch(config, meshes)
    mesh = meshes.teacher
    require_servable(config, new_settings(config, source={}, vocab_size=0, width=0))
    with turn_on_this_host(config.cache_dir):
        fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=report)
        examples = open_source(config.data.source, split=config.data.train_split, cache_dir=config.cache_dir)
    teacher = load_teacher(config, place=placing_on(mesh), report=report)
    if config.teacher.quantize is not None:
        quantize_in_place(teacher.model, config.teacher.quantize, place=placing_on(mesh))
    form = Template(config.data.template, teacher.tokenizer)
    encoded = EncodedExamples(
        examples, template=form, sequence_length=config.data.sequence_length, overlong=config.data.overlong
    )
    source = source_settings(config, directory=teacher.directory, tokenizer=teacher.tokenizer, encoded=encoded)
    model = teacher.model
    settings = new_settings(config, source=source, vocab_size=len(teacher.tokenizer), width=model.config.head_width)
    facts = {"logit_softcap": model.logit_softcap}
    manifest = begun(config, directory, settings, facts, kept_head=partial(_kept_head, directory, teacher))
    shards = manifest.files(directory)
    if is_whole(directory, manifest):
        report(f"{directory} is whole already: {told(manifest)}.")
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
    manifest = ended(directory, manifest)
    report(f"{directory} is whole: {told(manifest)}; {tokens / seconds:,.0f} counted tokens a second.")
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


def _verify(directory: Path, console: Console) -> None:
    manifest = complete_manifest(directory)
    if jax.process_index() == 0:
        with progress_line(console, "files", total=len(manifest.all_files)) as on_progress:
            verify_shards(directory, manifest, on_progress=on_progress)
    console.print(f"{directory} is as it was written: {told(manifest)}.", highlight=False, soft_wrap=True)
