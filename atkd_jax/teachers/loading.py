"""Brings the teacher that the config names into memory, with its tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from transformers import PreTrainedTokenizerBase

from atkd_jax.config import TeacherConfig
from atkd_jax.interop import fetch_model, load_model, load_tokenizer
from atkd_jax.models import Decoder


class LoadedTeacher(NamedTuple):
    """A teacher that is ready: its directory, weights and tokenizer."""

    directory: Path
    model: Decoder
    tokenizer: PreTrainedTokenizerBase


def load_teacher(config: TeacherConfig, *, cache_dir: Path, report: Callable[[str], None] = print) -> LoadedTeacher:
    """Returns the teacher, fetched first if it is not in the cache.

    Args:
        config: Which model, in which type.
        cache_dir: Where fetched models are kept.
        report: Is told, in a sentence, what takes time.

    Raises:
        InputError: if the model cannot be had or read.
    """
    directory = fetch_model(config.model, cache_dir=cache_dir, report=report)
    dtype = jnp.dtype(config.dtype)
    return LoadedTeacher(directory, load_model(directory, dtype=dtype, param_dtype=dtype), load_tokenizer(directory))
