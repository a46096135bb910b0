"""The student's shape without its weights, and the trained student of a run."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx

from atkd_jax.config import Config, StudentConfig
from atkd_jax.interop import read_config
from atkd_jax.models import Decoder, DecoderConfig, sized_config
from atkd_jax.training.reading import read_student_params
from atkd_jax.training.student import fetched_student


def student_shape(config: StudentConfig, *, teacher: DecoderConfig) -> DecoderConfig:
    """The decoder that the config's student is; no weights are read.

    Args:
        config: Where the student starts.
        teacher: The teacher's shape.
    """
    if config.init == "prune":
        return dataclasses.replace(teacher, num_layers=len(config.keep_layers) or config.layers)
    if config.init == "scratch":
        return sized_config(config.size or "", like=teacher)
    assert config.directory is not None  # the config's own check
    return read_config(config.directory)


def abstract_decoder(shape: DecoderConfig, *, dtype: str, param_dtype: str, remat: str = "none") -> Decoder:
    """A decoder whose arrays are `jax.ShapeDtypeStruct`: nothing is allocated.

    Args:
        shape: The decoder.
        dtype: Type of its arithmetic.
        param_dtype: Type of its weights.
        remat: What its backward pass recomputes.
    """
    return nnx.eval_shape(
        lambda: Decoder(
            shape,
            rngs=nnx.Rngs(0),
            dtype=jnp.dtype(dtype),
            param_dtype=jnp.dtype(param_dtype),
            remat=remat,  # pyright: ignore[reportArgumentType] (the config allows these three only)
        )
    )


def read_trained_student(config: Config, *, teacher: DecoderConfig) -> tuple[Decoder, int]:
    """The student of the run's newest checkpoint, and the steps that it has taken.

    Raises:
        InputError: The run has no checkpoint, or it cannot be read, or it is another model's.
    """
    shape = student_shape(fetched_student(config), teacher=teacher)
    student = abstract_decoder(shape, dtype=config.training.dtype, param_dtype="float32")
    graphdef, abstract_params = nnx.split(student)
    params, step = read_student_params(config.run_dir / "checkpoints", abstract_params)
    return nnx.merge(graphdef, params), step
