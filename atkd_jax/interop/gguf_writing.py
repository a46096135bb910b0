"""A Decoder into a GGUF file of float16 matrices, which llama.cpp opens."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.exporting import one_tensor
from atkd_jax.interop.families import FAMILIES, Family, family_of_config
from atkd_jax.interop.gguf_config import factor_tensors, metadata_of
from atkd_jax.interop.gguf_layout import change_of, names_in_gguf
from atkd_jax.interop.gguf_tokenizer import add_tokenizer
from atkd_jax.interop.new_directory import require_space
from atkd_jax.models import Decoder, DecoderConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter


def _gguf_family(config: DecoderConfig) -> Family:
    """Return the config's family, once it is seen to have a table for such files."""
    family = family_of_config(config)
    if family.gguf is None:
        known = ", ".join(each.name for each in FAMILIES if each.gguf)
        raise InputError(
            f"--format gguf writes the families {known}, but the student is of {family.name}; export it as safetensors."
        )
    return family


def _tensors(model: Decoder, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor by its name in the file: matrices in float16; the rest, and learned positions, in float32."""
    config = model.config
    names = names_in_gguf(family, config)
    arrays = {".".join(map(str, path)): slot.get_value() for path, slot in nnx.to_flat_state(nnx.state(model))}
    yield from factor_tensors(config)
    for weight in family.weights(config):
        change = change_of(family, weight, config)
        for place, name in weight.places(config):
            array = one_tensor(weight, [arrays[path] for path in weight.paths], place, weight.shape_in(config))
            array = change.to_file(np.asarray(array, np.float32))
            if array.ndim > 1 and weight.paths != ("position_embedding",):
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
    family = _gguf_family(model.config)
    assert family.gguf is not None  # `_gguf_family` has seen to it
    values = metadata_of(family, model.config)
    file.parent.mkdir(parents=True, exist_ok=True)
    require_space(file.parent, 2 * sum(slot.get_value().size for _, slot in nnx.to_flat_state(nnx.state(model))))
    unfinished = file.with_name(f".{file.name}.partial")
    try:
        writer = GGUFWriter(unfinished, family.gguf.architecture)
        writer.add_name(name)
        writer.add_file_type(LlamaFileType.MOSTLY_F16)
        for key, value in values.items():
            add = {
                bool: writer.add_bool,
                int: writer.add_uint32,
                float: writer.add_float32,
                str: writer.add_string,
            }[type(value)]
            add(f"{family.gguf.architecture}.{key}", value)
        add_tokenizer(writer, tokenizer, vocab_size=model.config.vocab_size)
        _write(writer, model, family)
        _read_back(unfinished, model, family)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
