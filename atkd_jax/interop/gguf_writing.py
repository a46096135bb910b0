"""A Decoder into a GGUF file of float16 matrices, which llama.cpp opens."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.exporting import one_tensor
from atkd_jax.interop.families import FAMILIES, GGUF_KEYS, Family, family_of_config
from atkd_jax.interop.gguf_layout import ROPE_FACTORS, heads_of_paired, names_in_gguf, paired, rope_factors
from atkd_jax.interop.gguf_tokenizer import add_tokenizer
from atkd_jax.interop.new_directory import require_space
from atkd_jax.models import Decoder, DecoderConfig, Llama3RopeScaling

if TYPE_CHECKING:
    from gguf import GGUFWriter


def _described(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """Return the values of the file's keys, once they are seen to say all of the config."""
    if family.gguf is None:
        known = ", ".join(each.name for each in FAMILIES if each.gguf)
        raise InputError(
            f"--format gguf writes the families {known}, but the student is of {family.name}; export it as safetensors."
        )
    raw = {"head_dim": config.head_dim} | family.write_config(config)
    values = {key: raw[name] for key, name in GGUF_KEYS.items()}
    said: dict[str, Any] = {"model_type": family.name, "vocab_size": config.vocab_size} | dict(family.gguf.implied)
    said |= {"tie_word_embeddings": config.tie_embeddings, **{name: raw[name] for name in GGUF_KEYS.values()}}
    if isinstance(config.rope_scaling, Llama3RopeScaling):
        said["rope_scaling"] = raw["rope_scaling"]  # by the factors
    read = family.read_config(said)
    if read != config:
        lost = next(name for name, value in vars(config).items() if getattr(read, name) != value)
        raise InputError(
            f"--format gguf: a file of the architecture {family.gguf.architecture} means {lost}="
            f"{getattr(read, lost)!r}, but the student has {getattr(config, lost)!r}; export it as safetensors."
        )
    return values


def _tensors(model: Decoder, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor by its name in the file: matrices in float16, the rest in float32."""
    config = model.config
    names = names_in_gguf(family, config)
    arrays = {".".join(map(str, path)): slot.get_value() for path, slot in nnx.to_flat_state(nnx.state(model))}
    if isinstance(config.rope_scaling, Llama3RopeScaling):
        yield ROPE_FACTORS, rope_factors(config, config.rope_scaling)
    for weight in family.weights(config):
        heads = heads_of_paired(family, weight, config)
        for place, name in weight.places(config):
            array = one_tensor(weight, [arrays[path] for path in weight.paths], place, weight.shape_in(config))
            array = np.asarray(array, np.float32)
            array = array if heads is None else paired(array, heads)
            if array.ndim > 1:
                with np.errstate(over="ignore"):
                    array = array.astype(np.float16)
            if not np.isfinite(array).all():
                raise InputError(
                    f"--format gguf: the tensor {name} must fit into float16, but has numbers beyond 65,504 or not "
                    "finite; export it as safetensors."
                )
            yield names[name], np.ascontiguousarray(array)


def _write(writer: GGUFWriter, model: Decoder, family: Family) -> None:
    for name, array in _tensors(model, family):
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, array in _tensors(model, family):
        writer.write_tensor_data(array)
    writer.close()


def _read_back(file: Path, model: Decoder, family: Family) -> None:
    """See to it that the file holds what was to be written, bit by bit."""
    from gguf import GGUFReader

    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for name, array in _tensors(model, family):
        found = stored.pop(name, None)
        if found is None or not np.array_equal(np.asarray(found.data).reshape(array.shape), array):
            raise OSError(errno.EIO, f"{name} was not read back as it was written", str(file))
    if stored:
        raise OSError(errno.EIO, f"{min(stored)} was read back and never written", str(file))


def export_gguf(model: Decoder, file: Path, *, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Write a model and its tokenizer as one GGUF file, and read it back to see that it holds what it should.

    The weights leave the devices one tensor at a time. The file appears when all of it is written.

    Args:
        model: of a family that has a table for such files.
        file: where it shall stand; one that stands there is replaced.
        tokenizer: the model's, of byte-level BPE.
        name: of the model, kept in the file.

    Raises:
        InputError: where the family or the tokenizer cannot be written so, float16 does not hold a weight, or the
            package gguf is missing.
    """
    try:
        from gguf import GGUFWriter, LlamaFileType
    except ImportError:
        raise InputError(
            "--format gguf writes by the package gguf, but that is not installed; run `pip install atkd-jax[gguf]`."
        ) from None
    family = family_of_config(model.config)
    values: Mapping[str, Any] = _described(family, model.config)
    assert family.gguf is not None  # `_described` has seen to it
    file.parent.mkdir(parents=True, exist_ok=True)
    require_space(file.parent, 2 * sum(slot.get_value().size for _, slot in nnx.to_flat_state(nnx.state(model))))
    unfinished = file.with_name(f".{file.name}.partial")
    try:
        writer = GGUFWriter(unfinished, family.gguf.architecture)
        writer.add_name(name)
        writer.add_file_type(LlamaFileType.MOSTLY_F16)
        for key, value in values.items():
            if isinstance(value, float):
                writer.add_float32(f"{family.gguf.architecture}.{key}", value)
            else:
                writer.add_uint32(f"{family.gguf.architecture}.{key}", value)
        add_tokenizer(writer, tokenizer, vocab_size=model.config.vocab_size)
        _write(writer, model, family)
        _read_back(unfinished, model, family)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
