"""How a model lies in a GGUF file, beside its checkpoint: names, what is done to tensors, rotary factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family, Weight
from atkd_jax.interop.families.layouts import HEAD_BY_HEAD, PLAIN
from atkd_jax.interop.families.rotary import write_scaling
from atkd_jax.interop.families.rows import joined_columns
from atkd_jax.models import DecoderConfig, Llama3RopeScaling
from atkd_jax.models.rotary import rotary_frequencies

# The tensor of factors that LLaMA 3.1 and later divide their rotary frequencies by.
ROPE_FACTORS = "rope_freqs.weight"
# Those of LongRoPE.
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
# What all of them have in common; the file holds the factors alone.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 8192}
_HEADS = {
    "layers.attention.query.kernel": "num_heads",
    "layers.attention.query.bias": "num_heads",
    "layers.attention.key.kernel": "num_kv_heads",
    "layers.attention.key.bias": "num_kv_heads",
}


def names_in_gguf(family: Family, config: DecoderConfig) -> dict[str, str]:
    """Return the name in a Hugging Face checkpoint -> the name in a GGUF file, for every tensor."""
    import gguf

    architecture = next(
        each for each, name in gguf.MODEL_ARCH_NAMES.items() if family.gguf and name == family.gguf.architecture
    )
    table = gguf.get_tensor_name_map(architecture, config.num_layers)
    names = [name for weight in family.weights(config) for _, name in weight.places(config)]
    return {name: table.get_name(name, try_suffixes=(".weight", ".bias")) or name for name in names}


def heads_of_paired(family: Family, weight: Weight, config: DecoderConfig) -> int | None:
    """Return how many heads a tensor has whose rows stand in pairs in the file; None where they do not."""
    heads = _HEADS.get(weight.paths[0])
    return getattr(config, heads) if heads and family.gguf is not None and family.gguf.has_paired_rows else None


def unpaired(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Return the rows, or numbers, of a query or key projection in the order of Hugging Face checkpoints.

    The rotary embedding turns rows in pairs. GGUF files hold the two rows of a pair side by side; here the first rows
    of all of a head's pairs stand before the second ones.
    """
    pairs = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, pairs, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def paired(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Return what `unpaired` undoes."""
    pairs = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, 2, pairs, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class Change(NamedTuple):
    """What llama.cpp's converter does to a tensor, in both directions.

    Attributes:
        to_file: of the array in a Hugging Face checkpoint.
        to_checkpoint: of the array in the file.
        transposes: whether the file's array has the checkpoint's axes in the other order.
    """

    to_file: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_checkpoint: Callable[[np.ndarray], np.ndarray] = lambda array: array
    transposes: bool = False


def change_of(family: Family, weight: Weight, config: DecoderConfig) -> Change:
    """Return what is done to a family's tensors of one name.

    - Gemma's checkpoints hold what a norm's factor exceeds 1 by: 1 is added to all whose name ends in `norm.weight`.
    - Queries, keys and values that stand head by head, as GPT-NeoX's, stand one after the other.
    - GPT-2's kernels, which are [inputs, outputs], lie the other way round, as all others do.
    - The rows of LLaMA's queries and keys stand in pairs.

    Reference:
        `modify_tensors` in `conversion/` of github.com/ggml-org/llama.cpp: gemma.py, gptneox.py, gpt2.py and llama.py.
    """
    heads = heads_of_paired(family, weight, config)
    if heads is not None:
        return Change(lambda rows: paired(rows, heads), lambda rows: unpaired(rows, heads))
    if family.gguf is not None and family.gguf.adds_one_to_norms and weight.name.endswith("norm.weight"):
        return Change(lambda array: array + np.float32(1), lambda array: array - np.float32(1))
    if weight.layout is HEAD_BY_HEAD:
        return Change(
            lambda rows: _exchanged(rows, config.num_heads, 3), lambda rows: _exchanged(rows, 3, config.num_heads)
        )
    if weight.is_stacked and len(weight.shape) == 2 and weight.layout in (PLAIN, joined_columns):
        return Change(np.transpose, np.transpose, transposes=True)
    return Change()


def _exchanged(rows: np.ndarray, first: int, second: int) -> np.ndarray:
    """Return rows that go by `first` and within it by `second` in the order that goes by `second` first."""
    return rows.reshape(first, second, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def rope_factors(config: DecoderConfig, scaling: Llama3RopeScaling) -> np.ndarray:
    """Return what the rotary frequencies are divided by: float32 [head_dim / 2]."""
    plain, slowed = (rotary_frequencies(config, theta=config.rope_theta, scaling=each) for each in (None, scaling))
    return (plain.astype(np.float64) / slowed.astype(np.float64)).astype(np.float32)


def scaling_of_factors(config: DecoderConfig, factors: np.ndarray) -> dict[str, Any] | None:
    """Return the `rope_scaling` of config.json that such factors come from.

    Args:
        config: the rest of the model's.
        factors: float32 [head_dim / 2].

    Raises:
        InputError: where they are none of LLaMA 3's.
    """
    scaling = Llama3RopeScaling(factor=float(np.max(factors)), **_LLAMA3)
    expected = rope_factors(dataclasses.replace(config, rope_scaling=None), scaling)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise InputError(
            f"must have the rotary factors of LLaMA 3.1 and later in {ROPE_FACTORS}, but has others; choose the "
            "safetensors weights."
        )
    return write_scaling(scaling)
