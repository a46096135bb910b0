"""A Hugging Face directory into a Decoder, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family, Weight, family_of_json
from atkd_jax.interop.tensor_files import FLOAT_TYPES, StoredTensor, list_tensors, read_json, read_tensor
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.models.decoder import Remat

Place = Callable[[str, np.ndarray], jax.Array]


def on_one_device(path: str, array: np.ndarray) -> jax.Array:
    """Return the array on the default device, whatever its path."""
    return jnp.asarray(array)


def _read(directory: Path) -> tuple[Family, DecoderConfig]:
    file = directory / "config.json"
    raw = read_json(file)
    try:
        if raw.get("quantization_config"):
            raise InputError(
                "must describe plain float weights, but has a quantization_config; choose the full weights."
            )
        family = family_of_json(raw)
        return family, family.read_config(raw)
    except InputError as error:
        raise InputError(f"{file} {error}") from None


def read_config(directory: Path | str) -> DecoderConfig:
    """Return the decoder that a Hugging Face directory's config.json describes.

    Raises:
        InputError: where there is no config.json, its family is not known, or it asks for what the decoder does not
            compute.
    """
    return _read(Path(directory))[1]


def _check(directory: Path, family: Family, config: DecoderConfig, stored: dict[str, StoredTensor]) -> None:
    """See to it, before anything is read, that every tensor is there, fits, and none is left over."""
    needed = {name: weight for weight in family.weights(config) for name in weight.names(config)}
    for name, weight in needed.items():
        if name not in stored:
            raise InputError(
                f"{directory} must hold the tensor {name}, which its config.json asks for, but does not; fetch or "
                "export the model again."
            )
        tensor, shape = stored[name], weight.shape(config)
        if tensor.shape != shape:
            raise InputError(
                f"{tensor.file}: the tensor {name} must be {list(shape)}, as config.json says, but is "
                f"{list(tensor.shape)}; the two are not of one model, so fetch or export it again."
            )
        if tensor.kind not in FLOAT_TYPES:
            raise InputError(
                f"{tensor.file}: the tensor {name} must be one of {', '.join(FLOAT_TYPES)}, but is {tensor.kind}; "
                "choose the model's full weights."
            )
    surplus = [
        name for name in stored if name not in needed and not any(fnmatch(name, each) for each in family.ignored)
    ]
    if surplus:
        raise InputError(
            f"{stored[surplus[0]].file} must hold only tensors that the family {family.name} computes with, but has "
            f"{len(surplus)} more, {surplus[0]} among them, without which the model's answers would be others; choose "
            "a model whose config.json says all that it is."
        )


def _assemble(
    weight: Weight, config: DecoderConfig, stored: dict[str, StoredTensor], shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Return one parameter, its layers read one after the other into their place."""
    if not weight.is_stacked:
        return weight.layout.to_param(read_tensor(weight.name, stored[weight.name]), shape).astype(dtype, copy=False)
    param = np.empty(shape, dtype)
    for layer, name in enumerate(weight.names(config)):
        param[layer] = weight.layout.to_param(read_tensor(name, stored[name]), shape[1:])
    return param


def load_model(
    directory: Path | str,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    remat: Remat = "none",
    place: Place = on_one_device,
) -> Decoder:
    """Return the model that a Hugging Face directory holds as config.json and safetensors.

    Its parameters are read, cast, transposed and placed one after the other. On the host there is at no time more than
    one parameter (all layers of one kernel), one tensor of the file, and what `place` keeps there.

    Args:
        directory: with config.json and model.safetensors, or several files and their index.
        dtype: of the model's arithmetic.
        param_dtype: of its parameters, whatever the type in the file.
        remat: what its backward pass recomputes; see `Decoder`.
        place: (path such as "layers.mlp.up.kernel", array) -> the array where it shall live, sharded for instance.

    Raises:
        InputError: where a file is missing, truncated or corrupt, a tensor is missing, left over or of a wrong shape,
            or the family is not known.
    """
    directory = Path(directory)
    family, config = _read(directory)
    stored = list_tensors(directory)
    _check(directory, family, config, stored)

    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype, remat=remat))
    graphdef, params = nnx.split(model)
    slots = {".".join(map(str, path)): slot for path, slot in nnx.to_flat_state(params)}
    weights = {weight.path: weight for weight in family.weights(config)}
    if slots.keys() != weights.keys():
        raise TypeError(f"The table of {family.name} and the decoder differ in {slots.keys() ^ weights.keys()}.")
    for path, slot in slots.items():
        shape, kind = slot.get_value().shape, np.dtype(slot.get_value().dtype)
        # The host's array has no name here and its transfer is waited for, so that it is gone before the next is read.
        slot.set_value(jax.block_until_ready(place(path, _assemble(weights[path], config, stored, shape, kind))))
    return nnx.merge(graphdef, params)
