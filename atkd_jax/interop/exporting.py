"""A Decoder into a Hugging Face directory that other programs open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family, Weight, family_of_config
from atkd_jax.interop.new_directory import new_directory
from atkd_jax.interop.tensor_writing import PlannedTensor, write_tensors
from atkd_jax.interop.tokenizer import save_tokenizer
from atkd_jax.models import Decoder, DecoderConfig


@jax.jit
def _take(stack: jax.Array, place: tuple[jax.Array, ...]) -> jax.Array:
    for number in place:
        stack = jax.lax.dynamic_index_in_dim(stack, number, keepdims=False)
    return stack


def one_tensor(
    weight: Weight, params: Sequence[jax.Array], place: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Return one tensor of a checkpoint out of the parameters that stand in it.

    Args:
        weight: the tensor's row in the family's table.
        params: of the paths in that row, stacked over layers where the tensor is not.
        place: which layer, or layer and expert.
        shape: of the tensor.
    """
    # Only the one layer crosses from the devices to the host.
    numbers = tuple(jnp.int32(number) for number in place)
    parts = [np.asarray(_take(param, numbers) if place else param) for param in params]
    return weight.layout.to_tensor(parts, shape)


def _plan(family: Family, config: DecoderConfig, params: Mapping[str, jax.Array]) -> list[PlannedTensor]:
    """Return the tensors in a checkpoint's usual order: what stands before the layers, layer by layer, the rest."""
    weights = family.weights(config)
    paths = {path for weight in weights for path in weight.paths}
    if params.keys() != paths:
        raise TypeError(f"The model and the table of {family.name} differ in {params.keys() ^ paths}.")
    planned: dict[int, list[PlannedTensor]] = {}
    seen_layers = False
    for weight in weights:
        seen_layers |= weight.is_stacked
        shape, own = weight.shape_in(config), [params[path] for path in weight.paths]
        for place, name in weight.places(config):
            # Before the layers is -1, behind them their number.
            key = place[0] if place else config.num_layers if seen_layers else -1
            make = partial(one_tensor, weight, own, place, shape)
            planned.setdefault(key, []).append(PlannedTensor(name, shape, make))
    return [tensor for key in sorted(planned) for tensor in planned[key]]


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """Return the tokenizer's ids, null where it has none: an absent key would mean the family's own default."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def export_model(
    model: Decoder,
    directory: Path | str,
    *,
    tokenizer: PreTrainedTokenizerFast,
    dtype: Any,
    max_shard_bytes: int,
    model_card: str,
    generation_config: Mapping[str, Any],
) -> None:
    """Write a model as a Hugging Face directory: weights, config, tokenizer, generation config and model card.

    The directory appears when all of it is written. A model directory that stands there already is replaced. The
    weights leave the devices one layer's tensor at a time.

    Args:
        model: what to write; its config names its family.
        directory: where it shall stand.
        tokenizer: goes with the model, its chat template too. Its BOS, EOS and padding enter both configs.
        dtype: of the written weights: float32, bfloat16 or float16.
        max_shard_bytes: weights larger than this are split into several files with an index.
        model_card: the text of README.md; `atkd_jax.interop.model_card` writes one.
        generation_config: what else generation_config.json shall say; it wins over the tokenizer's ids.

    Raises:
        InputError: where `directory` holds something else, the disk is full, or the tokenizer has more tokens than the
            model.
    """
    directory = Path(directory)
    config = model.config
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{directory}: the exported tokenizer must not have more tokens than the model has rows of its embedding, "
            f"but has {len(tokenizer)} against {config.vocab_size}; export with the model's own tokenizer."
        )
    family = family_of_config(config)
    kind = jnp.dtype(dtype)
    _, params = nnx.split(model)
    arrays = {".".join(map(str, path)): slot.get_value() for path, slot in nnx.to_flat_state(params)}
    token_ids = _token_ids(tokenizer)
    # transformers 4 and most other programs read torch_dtype, transformers 5 reads dtype.
    raw = family.write_config(config) | {"dtype": kind.name, "torch_dtype": kind.name} | token_ids
    with new_directory(directory, replace=True) as working:
        write_tensors(working, _plan(family, config, arrays), dtype=kind, max_shard_bytes=max_shard_bytes)
        _write_json(working / "config.json", raw)
        known_ids = {name: number for name, number in token_ids.items() if number is not None}
        _write_json(working / "generation_config.json", known_ids | dict(generation_config))
        save_tokenizer(tokenizer, working)
        (working / "README.md").write_text(model_card, encoding="utf-8")
