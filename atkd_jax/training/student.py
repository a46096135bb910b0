"""How the student starts: a pruned teacher, a directory, or random weights by a size table; and with which adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from atkd_jax.config import Config
from atkd_jax.config_student import LoraConfig, StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import (
    Place,
    family_of_config,
    fetch_model,
    load_model,
    load_tokenizer,
    on_one_device,
    read_config,
    require_same_tokenizer,
)
from atkd_jax.models import (
    Decoder,
    DecoderConfig,
    Importance,
    Pruning,
    Remat,
    add_adapters,
    evenly_spaced_layers,
    most_important,
    prune_model,
    pruned_config,
    sized_config,
)


def build_student(
    config: StudentConfig,
    *,
    teacher: Decoder,
    dtype: jnp.dtype,
    remat: Remat,
    seed: int,
    pruning: Pruning | None = None,
    cache_dir: Path | str = ".",
    place: Place = on_one_device,
) -> Decoder:
    """Returns the student before its first step, its weights in float32, with its adapters where it has some.

    What stays frozen beside adapters is kept in the type of the arithmetic.

    Args:
        config: Where it starts.
        teacher: The model that it may be pruned from, and whose vocabulary it shares.
        dtype: Type of the student's arithmetic.
        remat: What its backward pass recomputes.
        seed: Of random weights.
        pruning: What is kept of the teacher; by the config alone if None.
        cache_dir: Where fetched models are kept.
        place: Says where a weight that is read, by its path and shape, lives.

    Raises:
        InputError: if the layers to keep are not the teacher's, the directory is no model, or the size is unknown.
    """
    shape = student_config(config, teacher=teacher.config, cache_dir=cache_dir)
    if config.init == "prune":
        kept = pruning or choose_pruning(config, teacher=teacher.config)
        student = prune_model(teacher, kept, dtype=dtype, remat=remat)
    elif config.init == "scratch":
        student = Decoder(shape, rngs=nnx.Rngs(params=seed), dtype=dtype, remat=remat)
    else:
        directory = student_directory(config, cache_dir=cache_dir)
        student = load_model(directory, dtype=dtype, param_dtype=jnp.float32, remat=remat, place=place)
    if config.lora.rank is not None:
        _adapt(student, config.lora, dtype=dtype, seed=seed)
    return student


def _adapt(student: Decoder, config: LoraConfig, *, dtype: jnp.dtype, seed: int) -> None:
    assert config.rank is not None
    nnx.update(student, jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(student)))
    key = jax.random.fold_in(jax.random.key(seed), config.rank)
    rngs = nnx.Rngs(params=key)
    add_adapters(student, rank=config.rank, alpha=config.alpha, targets=config.targets, rngs=rngs)


def student_directory(
    config: StudentConfig, *, cache_dir: Path | str, report: Callable[[str], None] = lambda _: None
) -> Path:
    """Returns the directory that the student starts from, fetched first if it is a hub id that is not in the cache."""
    assert config.directory is not None  # the config's own check
    return fetch_model(config.directory, cache_dir=cache_dir, report=report)


def student_tokenizer(config: Config, teacher: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Returns the tokenizer whose ids the student reads: the teacher's, or, where each has its own, the student's.

    Args:
        config: The run.
        teacher: The teacher's.

    Raises:
        InputError: if the student's differs from the teacher's and the objective does not pair them.
    """
    if config.student.init != "directory":
        return teacher
    own = load_tokenizer(student_directory(config.student, cache_dir=config.cache_dir))
    if config.objective.pairs_tokens:
        return own
    require_same_tokenizer(teacher, own)
    return teacher


def student_config(
    config: StudentConfig, *, teacher: DecoderConfig, cache_dir: Path | str = ".", pruning: Pruning | None = None
) -> DecoderConfig:
    """Returns the decoder that the config's student is; no weights are read.

    Where layers are chosen by data, and some of the teacher's differ in kind, `pruning` says which they are; without it
    the result is right in every size.

    Args:
        config: Where the student starts.
        teacher: The teacher's shape.
        cache_dir: Where fetched models are kept.
        pruning: What is kept of the teacher, where that is known.

    Raises:
        InputError: if the student is a mixture of experts, or of a shape that its family does not have.
    """
    if config.init == "directory":
        shape = read_config(student_directory(config, cache_dir=cache_dir))
    elif config.init == "scratch":
        shape = sized_config(config.size or "", like=teacher)
    else:
        shape = pruned_config(teacher, pruning or choose_pruning(config, teacher=teacher))
    if shape.num_experts:
        raise InputError(
            f"student: a mixture of experts is computed here as a teacher only, but the student's family is "
            f"{shape.family} with {shape.num_experts} experts; choose a dense student, by student.init directory or "
            "scratch."
        )
    family_of_config(shape)  # so that what could not be exported is not trained
    return shape


def choose_pruning(config: StudentConfig, *, teacher: DecoderConfig, importance: Importance | None = None) -> Pruning:
    """Returns what is kept of the teacher.

    Args:
        config: How much.
        teacher: The teacher's shape.
        importance: What was measured; where it is needed and missing, the first layers, units and heads stand for those
            that will be chosen, which is enough to know every size.

    Raises:
        InputError: if there is not so much in the teacher.
    """
    _check_sizes(config, teacher)
    layers = config.keep_layers
    if not layers:
        keep = config.layers or teacher.num_layers
        layers = evenly_spaced_layers(teacher.num_layers, keep)
        if config.layer_choice == "block_influence" and importance is not None:
            layers = most_important(np.asarray(importance.distance), keep)

    def rows(keep: int | None, name: str) -> tuple[tuple[int, ...], ...] | None:
        if keep is None:
            return None
        if importance is None:
            return (tuple(range(keep)),) * len(layers)
        scores = np.asarray(getattr(importance, name))
        return tuple(most_important(scores[layer], keep) for layer in layers)

    return Pruning(tuple(layers), rows(config.mlp_width, "mlp_units"), rows(config.kv_heads, "kv_heads"))


def _check_sizes(config: StudentConfig, teacher: DecoderConfig) -> None:
    if config.keep_layers and config.keep_layers[-1] >= teacher.num_layers:
        raise InputError(
            f"student.keep_layers must be numbers from 0 to {teacher.num_layers - 1}, the teacher's layers, but "
            f"{list(config.keep_layers)} came; correct the list."
        )
    for name, limit in (("mlp_width", teacher.mlp_width), ("kv_heads", teacher.num_kv_heads)):
        value = getattr(config, name)
        if value is not None and value > limit:
            raise InputError(
                f"student.{name} must be at most the teacher's {limit}, but {value} came; choose less, or leave it out."
            )
