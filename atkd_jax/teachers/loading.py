"""Brings the teacher that the config names into memory, with its tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from transformers import PreTrainedTokenizerFast

from atkd_jax.config import Config, TeacherConfig
from atkd_jax.interop import Place, fetch_model, load_model, load_tokenizer, on_one_device
from atkd_jax.models import Decoder


class LoadedTeacher(NamedTuple):
    """A teacher that is ready: its directory, weights and tokenizer."""

    directory: Path
    model: Decoder
    tokenizer: PreTrainedTokenizerFast


def load_teacher(
    config: Config,
    *,
    teacher: TeacherConfig | None = None,
    place: Place = on_one_device,
    report: Callable[[str], None] = print,
) -> LoadedTeacher:
    """Returns the teacher, fetched first if it is not in the cache.

    Args:
        config: Which model in which type, who computes its attention, and where fetched models are kept.
        teacher: In place of the config's own, where another model or type is asked for.
        place: Says where a weight, by its path and shape, lives.
        report: Is told, in a sentence, what takes time.

    Raises:
        InputError: if the model cannot be had or read.
    """
    teacher = config.teacher if teacher is None else teacher
    directory = fetch_model(teacher.model, cache_dir=config.cache_dir, report=report)
    dtype = jnp.dtype(teacher.dtype)
    model = load_model(directory, dtype=dtype, param_dtype=dtype, place=place)
    model.attend_by(config.training.attention)
    return LoadedTeacher(directory, model, load_tokenizer(directory))
