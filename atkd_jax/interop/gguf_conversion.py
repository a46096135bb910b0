"""A GGUF file, such as llama.cpp runs, into a Hugging Face directory of float32 weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family, family_for_gguf
from atkd_jax.interop.gguf_config import raw_config
from atkd_jax.interop.gguf_layout import (
    LONG_FACTORS,
    ROPE_FACTORS,
    SHORT_FACTORS,
    Change,
    change_of,
    names_in_gguf,
)
from atkd_jax.interop.gguf_tokenizer import tokenizer_of_gguf
from atkd_jax.interop.new_directory import new_directory
from atkd_jax.interop.tensor_writing import PlannedTensor, write_tensors
from atkd_jax.interop.tokenizer import save_tokenizer
from atkd_jax.models import DecoderConfig

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor


def _open(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(
            f"{file} is a GGUF file, which the package gguf reads, but that is not installed; run "
            "`pip install atkd-jax[gguf]`."
        ) from None
    try:
        return GGUFReader(file)
    # The reader follows offsets without looking where the file ends: what it raises then depends on the place.
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise InputError(
            f"{file} must be a whole GGUF file, but is truncated or corrupt ({error}); get it again."
        ) from None


def _make(change: Change, tensor: ReaderTensor) -> np.ndarray:
    from gguf import dequantize

    return change.to_checkpoint(np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32))


def _plan(family: Family, config: DecoderConfig, tensors: Mapping[str, ReaderTensor]) -> list[PlannedTensor]:
    gguf_names = names_in_gguf(family, config)
    planned = []
    for weight in family.weights(config):
        change, expected = change_of(family, weight, config), weight.shape_in(config)
        for _, name in weight.places(config):
            tensor = tensors.get(gguf_names[name])
            if tensor is None:
                raise InputError(f"must hold the tensor {gguf_names[name]}, but does not; get it again.")
            shape = tuple(int(size) for size in reversed(tensor.shape))
            wanted = expected[::-1] if change.transposes else expected
            if shape != wanted:
                raise InputError(
                    f"must hold {tensor.name} as {list(wanted)}, as its metadata says, but holds it as {list(shape)}; "
                    "get it again."
                )
            planned.append(PlannedTensor(name, expected, partial(_make, change, tensor)))
    surplus = tensors.keys() - gguf_names.values() - {ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS}
    if surplus:
        raise InputError(
            f"must hold only tensors that the family {family.name} computes with, but has {min(surplus)} too; choose "
            "the safetensors weights."
        )
    return planned


def convert_gguf(file: Path, directory: Path, *, model_card: str) -> None:
    """Write the model in a GGUF file as a Hugging Face directory, one tensor at a time.

    The weights are written as float32: a dequantised value is a float16 scale times a small whole number, plus a
    float16 offset, which float32 holds as the gguf package computes it and no 16-bit type does.

    Args:
        file: with a quantisation that the gguf package undoes.
        directory: to be made; must not exist.
        model_card: the text of README.md.

    Raises:
        InputError: where the package gguf is missing, the file is truncated, or its model is of no known family.
    """
    reader = _open(file)
    metadata = {name: each.contents() for name, each in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    try:
        family = family_for_gguf(str(metadata.get("general.architecture")))
        raw = raw_config(family, metadata, tensors)
        config = family.read_config(raw)
        tokenizer = tokenizer_of_gguf(metadata, max_length=config.max_position)
        planned = _plan(family, config, tensors)
    except InputError as error:
        raise InputError(f"{file} {error}") from None
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    raw = family.write_config(config) | {"dtype": "float32", "torch_dtype": "float32"} | ids
    with new_directory(directory) as working:
        write_tensors(working, planned, dtype=np.dtype(np.float32), max_shard_bytes=5_000_000_000)
        save_tokenizer(tokenizer, working)
        for name, content in (("config.json", raw), ("generation_config.json", ids)):
            (working / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (working / "README.md").write_text(model_card, encoding="utf-8")
