"""How the student starts: a pruned teacher, a directory, or random weights by a size table."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from atkd_jax.config import Config, StudentConfig
from atkd_jax.interop import Place, fetch_model, load_model, on_one_device
from atkd_jax.models import Decoder, Remat, evenly_spaced_layers, prune_layers, sized_config


def fetched_student(config: Config, *, report: Callable[[str], None] = print) -> StudentConfig:
    """Returns where the student starts, with a hub id in place of a directory brought into the cache.

    Raises:
        InputError: if the model cannot be had.
    """
    student = config.student
    if student.init != "directory" or student.directory is None:
        return student
    directory = fetch_model(student.directory, cache_dir=config.cache_dir, report=report)
    return student.model_copy(update={"directory": directory})


def build_student(
    config: StudentConfig,
    *,
    teacher: Decoder,
    dtype: jnp.dtype,
    remat: Remat,
    seed: int,
    place: Place = on_one_device,
) -> Decoder:
    """Returns the student before its first step, its weights in float32.

    Args:
        config: Where it starts.
        teacher: The model that it may be pruned from, and whose vocabulary it shares.
        dtype: Type of the student's arithmetic.
        remat: What its backward pass recomputes.
        seed: Of random weights.
        place: Says where a weight that is read, by its path and shape, lives.

    Raises:
        InputError: if the layers to keep are not the teacher's, the directory is no model, or the size is unknown.
    """
    if config.init == "prune":
        kept = config.keep_layers or evenly_spaced_layers(teacher.config.num_layers, config.layers or 0)
        return prune_layers(teacher, kept, dtype=dtype, remat=remat)
    if config.init == "scratch":
        shape = sized_config(config.size or "", like=teacher.config)
        return Decoder(shape, rngs=nnx.Rngs(params=seed), dtype=dtype, remat=remat)
    assert config.directory is not None  # the config's own check
    return load_model(config.directory, dtype=dtype, param_dtype=jnp.float32, remat=remat, place=place)
