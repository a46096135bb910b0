"""A Hugging Face directory into a Decoder, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family, Weight, family_of_json
from atkd_jax.interop.tensor_files import FLOAT_TYPES, StoredTensor, list_tensors, read_json, read_tensor
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.models.remat import Remat

# (path such as "layers.mlp.up.kernel", shape) -> where the array shall live.
Place = Callable[[str, tuple[int, ...]], Sharding]


def on_one_device(path: str, shape: tuple[int, ...]) -> Sharding:
    """Return the first device of this process, whatever the path."""
    return SingleDeviceSharding(jax.local_devices()[0])


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


def _list(directory: Path, family: Family) -> dict[str, StoredTensor]:
    """Return the stored tensors under the names of the family's table, whose prefix some checkpoints leave out."""
    stored = list_tensors(directory)
    if any(name.startswith(family.prefix) for name in stored):
        return stored
    return {name if name == "lm_head.weight" else family.prefix + name: tensor for name, tensor in stored.items()}


def _check(directory: Path, family: Family, config: DecoderConfig, stored: dict[str, StoredTensor]) -> None:
    """See to it, before anything is read, that every tensor is there, fits, and none is left over."""
    needed = {name: weight for weight in family.weights(config) for _, name in weight.places(config)}
    for name, weight in needed.items():
        if name not in stored:
            raise InputError(
                f"{directory} must hold the tensor {name}, which its config.json asks for, but does not; fetch or "
                "export the model again."
            )
        tensor, shape = stored[name], weight.shape_in(config)
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


@cache
def _writer(sharding: Sharding) -> Callable[[jax.Array, jax.Array, Sequence[np.int32]], jax.Array]:
    """Return a program that writes a part into its place among the layers, in the memory of the whole."""
    return jax.jit(jax.lax.dynamic_update_slice, donate_argnums=0, out_shardings=sharding)


def _write(param: jax.Array, place: tuple[int, ...], part: np.ndarray) -> jax.Array:
    """Return the parameter with one layer's part in its place; each process and device takes its own share of it."""
    part = part.astype(param.dtype, copy=False)[(None,) * len(place)]
    on_devices = jax.make_array_from_callback(part.shape, param.sharding, lambda index: part[index])
    if not place:
        return jax.block_until_ready(on_devices)
    start = [np.int32(number) for number in (*place, *(0,) * (param.ndim - len(place)))]
    # Waited for, so that the host's part is gone before the next one is read.
    return jax.block_until_ready(_writer(param.sharding)(param, on_devices, start))


def _read_weight(
    weight: Weight, config: DecoderConfig, stored: Mapping[str, StoredTensor], params: dict[str, jax.Array]
) -> None:
    """Read a weight's tensors one after the other into the parameters that they make up."""
    for place, name in weight.places(config):
        shapes = [params[path].shape[len(place) :] for path in weight.paths]
        parts = weight.layout.to_params(read_tensor(name, stored[name]), shapes)
        for path, part in zip(weight.paths, parts, strict=True):
            params[path] = _write(params[path], place, part)


def load_model(
    directory: Path | str,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    remat: Remat = "none",
    place: Place = on_one_device,
) -> Decoder:
    """Return the model that a Hugging Face directory holds as config.json and safetensors.

    Its tensors are read, cast, transposed and placed one after the other, each straight into its place on the devices:
    beside what lives there, the host holds one tensor of the file at a time, as it was read and as it was cast.

    Args:
        directory: with config.json and model.safetensors, or several files and their index.
        dtype: of the model's arithmetic.
        param_dtype: of its parameters, whatever the type in the file.
        remat: what its backward pass recomputes; see `Decoder`.
        place: says where a parameter shall live, sharded for instance. The axes of layers and experts stay whole.

    Raises:
        InputError: where a file is missing, truncated or corrupt, a tensor is missing, left over or of a wrong shape,
            or the family is not known.
    """
    directory = Path(directory)
    family, config = _read(directory)
    stored = _list(directory, family)
    _check(directory, family, config, stored)

    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype, remat=remat))
    graphdef, params = nnx.split(model)
    slots = {".".join(map(str, path)): slot for path, slot in nnx.to_flat_state(params)}
    weights = family.weights(config)
    paths = {path for weight in weights for path in weight.paths}
    if slots.keys() != paths:
        raise TypeError(f"The table of {family.name} and the decoder differ in {slots.keys() ^ paths}.")
    for weight in weights:
        own = {path: slots[path].get_value() for path in weight.paths}
        arrays = {path: jnp.zeros(each.shape, each.dtype, device=place(path, each.shape)) for path, each in own.items()}
        _read_weight(weight, config, stored, arrays)
        for path, array in arrays.items():
            slots[path].set_value(array)
    return nnx.merge(graphdef, params)
