"""The student's shape without its weights, and the trained student of a run."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.config_student import LoraConfig
from atkd_jax.interop import is_gguf, load_model, read_config
from atkd_jax.models import Bits, Decoder, DecoderConfig, Pruning, add_adapters, quantize_in_place, split_trained
from atkd_jax.training.calibration import read_pruning
from atkd_jax.training.reading import read_student_params, require_checkpoint
from atkd_jax.training.student import build_student, student_config


def abstract_decoder(
    shape: DecoderConfig,
    *,
    dtype: str,
    param_dtype: str,
    lora: LoraConfig | None = None,
    quantize: Bits | None = None,
) -> Decoder:
    """A decoder whose arrays are `jax.ShapeDtypeStruct`: nothing is allocated.

    Args:
        shape: The decoder.
        dtype: Type of its arithmetic.
        param_dtype: Type of its weights.
        lora: Its adapters, which are float32.
        quantize: What its matrices are stored in.
    """

    def make() -> Decoder:
        rngs = nnx.Rngs(0)
        model = Decoder(shape, rngs=rngs, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype))
        if lora is not None and lora.rank is not None:
            add_adapters(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, rngs=rngs)
        if quantize is not None:
            quantize_in_place(model, quantize)
        return model

    return nnx.eval_shape(make)


def read_trained_student(config: Config, *, teacher_directory: Path, step: int | None = None) -> tuple[Decoder, int]:
    """The student of one of the run's checkpoints, and the steps that it has taken.

    Beside adapters stand the frozen weights that they were trained with, which no checkpoint holds: they are read
    again from where the student started. Otherwise the teacher's weights are not needed.

    Args:
        config: The run.
        teacher_directory: Where the teacher is.
        step: The checkpoint; the newest if None.

    Raises:
        InputError: The run has no such checkpoint, or it cannot be read, or it is another model's.
    """
    checkpoints = config.run_dir / "checkpoints"
    require_checkpoint(checkpoints)
    pruning = read_pruning(config.run_dir) if config.student.needs_measuring else None
    if config.student.lora.rank is None:
        shape = student_config(
            config.student, teacher=read_config(teacher_directory), cache_dir=config.cache_dir, pruning=pruning
        )
        student = abstract_decoder(shape, dtype=config.training.dtype, param_dtype="float32")
    else:
        student = student_at_start(config, load_model(teacher_directory), pruning=pruning)
    student.attend_by(config.training.attention)
    graphdef, trained, frozen = split_trained(student)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trained)
    params, step = read_student_params(checkpoints, abstract, step=step)
    return nnx.merge(graphdef, params, *frozen), step


def student_at_start(config: Config, teacher: Decoder, *, pruning: Pruning | None) -> Decoder:
    """The run's student before its first step; what `pruning` is see `build_student`."""
    return build_student(
        config.student,
        teacher=teacher,
        dtype=jnp.dtype(config.training.dtype),
        remat="none",
        seed=config.seed,
        pruning=pruning,
        cache_dir=config.cache_dir,
    )


def base_of_adapters(config: Config) -> str | None:
    """The model that peft puts the run's adapters beside, as users name it.

    None where it is one of the run's own, or in a form that peft does not open.
    """
    directory = config.student.directory
    if config.student.init != "directory" or directory is None or is_gguf(str(directory)):
        return None
    return str(directory.absolute()) if directory.is_dir() else str(directory)
