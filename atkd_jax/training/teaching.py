"""Where a run's teacher comes from: its weights, or a cache of what it said, with which they are soon forgotten."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.data import Template, open_source
from atkd_jax.data.cached_signals import CachedSignals
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_description, fetch_model, load_tokenizer, read_config
from atkd_jax.models import Decoder, TokenSimilarity
from atkd_jax.objectives import make_objective
from atkd_jax.sharding import Meshes, parameter_sharding, spread
from atkd_jax.teachers import (
    CachedTeacher,
    LoadedTeacher,
    cached_signals,
    cached_teacher,
    load_teacher,
    read_head,
)
from atkd_jax.teachers.cache_settings import require_wanted, source_settings
from atkd_jax.training.placement import placing_on
from atkd_jax.training.shared_directory import turn_on_this_host


class Cached(NamedTuple):
    """A cache that a run may read.

    Attributes:
        teacher: what the step must know of it.
        params: what it is given: the teacher's head, if hidden states were kept.
        open_signals: opens what puts its arrays beside those of a batch.
        name: tells it from other caches.
    """

    teacher: CachedTeacher
    params: dict[str, jax.Array]
    open_signals: Callable[[], CachedSignals]
    name: str


class Teaching(NamedTuple):
    """A run's teacher before the start.

    Attributes:
        loaded: the live teacher. Of a run from a cache only what the start needs: its weights where the student is cut
            from them, else its shape, with arrays that are `jax.ShapeDtypeStruct`.
        cached: None of a live teacher.
    """

    loaded: LoadedTeacher
    cached: Cached | None

    def start_config(self, config: Config) -> Config:
        """Returns the config of the start: what is read from a cache is not stored as integers."""
        if self.cached is None:
            return config
        return config.model_copy(update={"teacher": config.teacher.model_copy(update={"quantize": None})})

    def split(self, config: Config) -> tuple[Any, Any]:
        """Returns what the step is made with, and the parameters that it is given."""
        if self.cached is not None:
            return self.cached.teacher, self.cached.params
        return nnx.split(teaching_model(config, self.loaded.model))


def teaching_model(config: Config, model: Decoder) -> Any:
    """Returns what is asked for the teacher's states and head: the model, or a `TokenSimilarity` of its embeddings."""
    scale = config.objective.token_similarity.scale
    return model if scale is None else TokenSimilarity(model, scale=scale)


def open_teaching(config: Config, *, meshes: Meshes, report: Callable[[str], None]) -> Teaching:
    """Returns the teacher of a config, verified against the run where it is a cache; every process must call it.

    Raises:
        InputError: the model cannot be had, or the cache is not whole or not of this run.
    """
    place = placing_on(meshes.teacher)
    if config.teacher.cache is None:
        return Teaching(load_teacher(config, place=place, report=report), None)
    is_pruned = config.student.init == "prune"
    fetch = fetch_model if is_pruned else fetch_description
    directory = fetch(config.teacher.model, cache_dir=config.cache_dir, report=report)
    tokenizer = load_tokenizer(directory)
    cached = _open_cache(config, meshes, directory=directory, tokenizer=tokenizer)
    if is_pruned:
        return Teaching(load_teacher(config, place=place, report=report), cached)
    shape = nnx.eval_shape(lambda: Decoder(read_config(directory), rngs=nnx.Rngs(0)))
    return Teaching(LoadedTeacher(directory, shape, tokenizer), cached)


def _open_cache(config: Config, meshes: Meshes, *, directory: Any, tokenizer: Any) -> Cached:
    cache = config.teacher.cache
    assert cache is not None  # the caller's own check
    with turn_on_this_host(config.cache_dir):
        examples = open_source(config.data.source, split=config.data.train_split, cache_dir=config.cache_dir)
    encoded = EncodedExamples(
        examples,
        template=Template(config.data.template, tokenizer),
        sequence_length=config.data.sequence_length,
        overlong=config.data.overlong,
    )
    source = source_settings(config, directory=directory, tokenizer=tokenizer, encoded=encoded)
    manifest = require_wanted(config, cache, source)
    require_servable(config, manifest.settings)
    teacher = cached_teacher(manifest)
    params = {}
    if teacher.form.kind == "hidden":
        head = read_head(cache, manifest)
        where = parameter_sharding(meshes.teacher, ("embed", "vocab"), head.shape)
        params["head"] = spread(jnp.asarray(head, teacher.dtype), where)
    return Cached(teacher, params, lambda: cached_signals(cache, manifest), manifest.digest)


def require_servable(config: Config, settings: Mapping[str, Any]) -> None:
    """Refuses a run that a cache of these settings cannot teach.

    Args:
        config: The run.
        settings: What `new_settings` gives, or a manifest has.

    Raises:
        InputError: the objective, or its temperature, needs more than is kept.
    """
    kind = "top_k_tail" if settings.get("cache.tail_draws") else settings["cache.kind"]
    temperature = config.objective.temperature
    if settings["objective.temperature"] not in (None, temperature):
        raise InputError(
            f"objective.temperature={temperature} cannot be learned from teacher.cache {config.teacher.cache}, whose "
            f"kind is {kind} and keeps probabilities at temperature 1; leave it at 1, or write a cache of cache.kind "
            "hidden."
        )
    objective = make_objective(config.objective)
    try:
        losses.sparse_form(loss=objective.divergence.name, kind=kind)
    except ValueError as error:
        if config.objective.name == "cross_entropy":
            return
        raise InputError(
            f"objective.name={config.objective.name} cannot be learned from teacher.cache {config.teacher.cache}, "
            f"whose kind is {kind} ({error}); choose another objective, or write a cache of another cache.kind"
        ) from error


def forget_weights() -> None:
    """Frees the memory of models that nothing refers to any more but themselves."""
    gc.collect()
