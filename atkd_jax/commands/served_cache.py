"""`launch.py cache` of a teacher that others serve: its weights are nowhere here."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import jax
from rich.console import Console

from atkd_jax.commands.cache_files import begun, ended, is_whole, told
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.config import Config, TeacherConfig
from atkd_jax.data import Template, open_source
from atkd_jax.data.cache_manifest import Manifest
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_description, load_tokenizer
from atkd_jax.interop.openai_client import OpenAIClient, api_key_from
from atkd_jax.sharding import gathered
from atkd_jax.teachers.cache_settings import format_of, new_settings, source_settings
from atkd_jax.teachers.endpoint import EndpointTeacher
from atkd_jax.teachers.endpoint_writing import write_served_shards
from atkd_jax.training.shared_directory import turn_on_this_host
from atkd_jax.training.teaching import require_servable


def make_served_cache(config: Config, directory: Path, *, console: Console) -> Manifest:
    """Writes a cache of teacher.endpoint, or what is missing of it, and returns its manifest.

    Every process must call it.

    Raises:
        InputError: the cache is of another kind than top_k or cannot teach the run, or the server refuses or is of
            another tokenizer.
    """
    report = partial(console.print, highlight=False, soft_wrap=True)
    with turn_on_this_host(config.cache_dir):
        model = fetch_description(config.teacher.model, cache_dir=config.cache_dir, report=report)
        examples = open_source(config.data.source, split=config.data.train_split, cache_dir=config.cache_dir)
    tokenizer = load_tokenizer(model)
    encoded = EncodedExamples(
        examples,
        template=Template(config.data.template, tokenizer),
        sequence_length=config.data.sequence_length,
        overlong=config.data.overlong,
    )
    source = source_settings(config, directory=model, tokenizer=tokenizer, encoded=encoded)
    settings = new_settings(config, source=source, vocab_size=len(tokenizer), width=0)
    if settings["cache.kind"] != "top_k" or settings["cache.tail_draws"]:
        raise InputError(
            f"teacher.endpoint gives likeliest words alone, but cache.kind={config.cache.kind} and cache.tail_draws="
            f"{config.cache.tail_draws} ask for more of its distribution; leave both out, or run the teacher here."
        )
    require_servable(config, settings)
    manifest = begun(config, directory, settings, {"logit_softcap": None, "endpoint": config.teacher.endpoint})
    if is_whole(directory, manifest):
        report(f"{directory} is whole already: {told(manifest)}.")
        return manifest
    began = time.monotonic()
    with open_client(config.teacher) as client, progress_line(console, "examples", total=len(encoded)) as on_progress:
        teacher = _teacher(config.teacher, client, k=settings["cache.k"], vocab_size=len(tokenizer))
        if not teacher.require_tokenizer(tokenizer):
            report(f"{config.teacher.endpoint} does not tell its tokens, so that its tokenizer is taken at its word.")
        own_tokens = write_served_shards(
            manifest.files(directory),
            encoded,
            form=format_of(manifest),
            teacher=teacher,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_progress=on_progress,
        )
    tokens = sum(gathered(own_tokens))
    seconds = time.monotonic() - began
    manifest = ended(directory, manifest)
    report(f"{directory} is whole: {told(manifest)}; {tokens / seconds:,.0f} counted tokens a second.")
    return manifest


def open_client(teacher: TeacherConfig) -> OpenAIClient:
    """Returns a client to the server of teacher.endpoint, at its root; processes share the limits.

    Raises:
        InputError: the address is none, or the variable of the key is not set.
    """
    assert teacher.endpoint is not None  # the caller's own check
    options = teacher.endpoint_options
    in_flight, rate = own_limits(teacher)
    return OpenAIClient(
        teacher.endpoint.rstrip("/").removesuffix("/v1"),
        api_key=api_key_from(options.key_variable),
        attempts=options.attempts,
        timeout_seconds=options.timeout_seconds,
        max_in_flight=in_flight,
        requests_per_second=rate,
    )


def own_limits(teacher: TeacherConfig) -> tuple[int, float | None]:
    """Returns this process's share of requests under way, which is one at least, and of those in a second."""
    options, processes = teacher.endpoint_options, jax.process_count()
    rate = options.requests_per_second
    return max(1, options.in_flight // processes), None if rate is None else rate / processes


def _teacher(teacher: TeacherConfig, client: OpenAIClient, *, k: int, vocab_size: int) -> EndpointTeacher:
    options = teacher.endpoint_options
    return EndpointTeacher(
        client,
        api=options.api,
        model=options.model or teacher.model,
        k=k,
        vocab_size=vocab_size,
        in_flight=own_limits(teacher)[0],
    )
