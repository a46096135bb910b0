"""A decoder's adapters as a directory that peft puts beside the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Weight, family_of_config
from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.interop.families.rows import joined_columns
from atkd_jax.interop.new_directory import ADAPTER_CONFIG_NAME, new_directory
from atkd_jax.interop.tensor_files import SINGLE_NAME
from atkd_jax.interop.tensor_writing import PlannedTensor, write_tensors
from atkd_jax.interop.tokenizer import save_tokenizer
from atkd_jax.models import Decoder
from atkd_jax.models.linear import Linear

ADAPTER_NAME = "adapter_model.safetensors"


class _Adapted(NamedTuple):
    """A tensor of the base model, and the products that stand in it together, not all of which need an adapter."""

    weight: Weight
    linears: tuple[Linear, ...]

    @property
    def module(self) -> str:
        """Its module in transformers' model, from the layer on, such as `self_attn.q_proj`."""
        return self.weight.name.removesuffix(".weight").partition("{layer}.")[2]

    @property
    def ranks(self) -> list[int]:
        return [0 if each.adapter_scale is None else each.adapter_in[...].shape[-1] for each in self.linears]

    @property
    def scale(self) -> float:
        return next(each.adapter_scale for each in self.linears if each.adapter_scale is not None)

    @property
    def _is_transposed(self) -> bool:
        """Whether the base's tensor is [inputs, outputs]; what peft keeps is [outputs, inputs] in any case."""
        return self.weight.layout in (PLAIN, joined_columns)

    def inputs(self, layer: int) -> np.ndarray:
        """Return lora_A [rank, inputs]: those of the products, one after the other."""
        parts = [
            np.asarray(each.adapter_in[...][layer], np.float32)
            for each in self.linears
            if each.adapter_scale is not None
        ]
        return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts], axis=1).T

    def outputs(self, layer: int, size: int) -> np.ndarray:
        """Return lora_B [outputs, rank], laid out as the base's tensor.

        Every product reads its own part of the rank, and zeros stand where the others' would be.
        """
        rank, start, kernels = sum(self.ranks), 0, []
        for own, linear in zip(self.ranks, self.linears, strict=True):
            kernel = np.zeros((rank, *linear.kernel[...].shape[1 + linear.num_inputs :]), np.float32)
            if own:
                kernel[start : start + own] = np.asarray(linear.adapter_out[...][layer], np.float32)
            kernels.append(kernel)
            start += own
        shape = (rank, size) if self._is_transposed else (size, rank)
        tensor = self.weight.layout.to_tensor(kernels, shape)
        return tensor.T if self._is_transposed else tensor


def _adapted(model: Decoder) -> list[_Adapted]:
    family = family_of_config(model.config)
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    found = []
    for weight in family.weights(model.config):
        own = [modules.get(path.removesuffix(".kernel")) for path in weight.paths]
        linears = tuple(each for each in own if isinstance(each, Linear))
        if len(linears) == len(own) and any(each.adapter_scale is not None for each in linears):
            found.append(_Adapted(weight, linears))
    return found


def _config(adapted: list[_Adapted], base: str) -> dict[str, Any]:
    ranks = {each.module: sum(each.ranks) for each in adapted}
    alphas = {each.module: each.scale * sum(each.ranks) for each in adapted}
    rank, alpha = ranks[adapted[0].module], alphas[adapted[0].module]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {module: each for module, each in alphas.items() if each != alpha},
        "target_modules": sorted(ranks),
        "fan_in_fan_out": any(each._is_transposed for each in adapted),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def export_adapter(
    model: Decoder,
    directory: Path | str,
    *,
    base: str,
    tokenizer: PreTrainedTokenizerFast,
    model_card: str,
) -> None:
    """Write the model's adapters, in float32, as a directory that `peft.PeftModel.from_pretrained` loads.

    Where the base keeps several products in one tensor, their adapters become one of the ranks' sum.

    Args:
        model: with adapters.
        directory: where it shall stand; an adapter that stands there already is replaced.
        base: the model that it goes with: a hub id or a directory.
        tokenizer: goes with the adapter.
        model_card: the text of README.md.

    Raises:
        InputError: where the model has no adapters, `directory` holds something else, or the disk is full.
    """
    adapted = _adapted(model)
    if not adapted:
        raise InputError(f"{directory}: a model without adapters cannot be written as one; export its full weights.")
    planned = []
    for each in adapted:
        size, rank = each.weight.shape_in(model.config)[1 if each._is_transposed else 0], sum(each.ranks)
        for (layer,), name in each.weight.places(model.config):
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            width = each.inputs(layer).shape[1]
            makers: Mapping[str, Any] = {
                "lora_A": ((rank, width), partial(each.inputs, layer)),
                "lora_B": ((size, rank), partial(each.outputs, layer, size)),
            }
            planned += [PlannedTensor(f"{prefix}.{own}.weight", *made) for own, made in makers.items()]
    with new_directory(Path(directory), replace=True) as working:
        write_tensors(working, planned, dtype=np.dtype(np.float32), max_shard_bytes=2**62)
        (working / SINGLE_NAME).rename(working / ADAPTER_NAME)
        text = json.dumps(_config(adapted, base), indent=2)
        (working / ADAPTER_CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        save_tokenizer(tokenizer, working)
        (working / "README.md").write_text(model_card, encoding="utf-8")
