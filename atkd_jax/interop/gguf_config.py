"""What the metadata of a GGUF file say of a model's shape, as keys of config.json, in both directions.

What is written is what the converter of llama.cpp writes (github.com/ggml-org/llama.cpp, `conversion/gemma.py` at
2bbcf7f, `phi.py` at 7bca1fd), and what is taken for granted is what llama.cpp computes (`src/models/gemma2.cpp` at
82234e0, `phi3.cpp` at 358a4a0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.interop.families import Family
from atkd_jax.interop.gguf_layout import (
    LONG_FACTORS,
    ROPE_FACTORS,
    SHORT_FACTORS,
    rope_factors,
    scaling_of_factors,
)
from atkd_jax.models import DecoderConfig, LinearRopeScaling, Llama3RopeScaling, LongRopeScaling
from atkd_jax.models.rope_scaling import longrope_amplitude

_TURNED, _TYPE, _FACTOR = "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor"
_ORIGINAL, _AMPLITUDE = "rope.scaling.original_context_length", "rope.scaling.attn_factor"


def _tidy(value: Any) -> Any:
    # 1e-5 was written as a float32 and comes back as 9.999999747378752e-06: the shortest text of it is 1e-05 again.
    return float(str(np.float32(value))) if isinstance(value, float | np.floating) else value


def raw_config(family: Family, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json that a file's metadata amounts to.

    Args:
        family: of the file.
        metadata: by the file's keys.
        tensors: name -> what has its numbers at `.data`.

    Raises:
        InputError: where rotary frequencies are scaled in a way that is not read, or the model has experts.
    """
    assert family.gguf is not None  # it was found by it
    table = family.gguf
    prefix = f"{table.architecture}."
    own = {key.removeprefix(prefix): _tidy(value) for key, value in metadata.items() if key.startswith(prefix)}
    if own.get("expert_count"):
        raise InputError(
            f"must hold a dense model, but has {own['expert_count']} experts, which are read from safetensors weights "
            "alone; choose those."
        )
    raw: dict[str, Any] = {"model_type": family.name, "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ()))}
    raw |= {name: own[key] for key, name in table.keys.items() if key in own}
    if raw.get("sliding_window") == 0:
        raw["sliding_window"] = None
    if table.share_key is not None and _TURNED in own:
        # Where one of the two is missing, that is what will be said of the file.
        raw[table.share_key] = own[_TURNED] * raw.get("num_attention_heads", 0) / raw.get("hidden_size", 1)
    raw["tie_word_embeddings"] = "output.weight" not in tensors
    raw = dict(table.implied(raw)) | raw
    factors = {
        name: np.asarray(tensors[name].data, np.float32)
        for name in (ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS)
        if name in tensors
    }
    return raw | _read_scaling(family, raw, own, factors)


def _read_scaling(
    family: Family, raw: Mapping[str, Any], own: Mapping[str, Any], factors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    kind = own.get(_TYPE, "none")
    if LONG_FACTORS in factors and SHORT_FACTORS in factors and kind in ("none", "longrope"):
        return _read_longrope(own, factors, max_position=family.read_config(raw).max_position)
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": own.get(_FACTOR)}}
    if kind != "none":
        raise InputError(
            f"must have unscaled rotary embeddings, or linear ones, but has {kind} ones; choose the safetensors "
            "weights."
        )
    if ROPE_FACTORS in factors:
        return {"rope_scaling": scaling_of_factors(family.read_config(raw), factors[ROPE_FACTORS])}
    return {}


def _read_longrope(own: Mapping[str, Any], factors: Mapping[str, np.ndarray], *, max_position: int) -> dict[str, Any]:
    long, short = ([_tidy(value) for value in factors[name]] for name in (LONG_FACTORS, SHORT_FACTORS))
    rope = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    original = int(own.get(_ORIGINAL, max_position))
    implied = longrope_amplitude(max_position / original, original)
    # A float32 of it that would only say less exactly what is known.
    if not np.isclose(own.get(_AMPLITUDE, implied), implied, rtol=1e-6):
        rope["attention_factor"] = own[_AMPLITUDE]
    return {"rope_scaling": rope, "original_max_position_embeddings": original}


def metadata_of(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """Return the file's keys and their values, without the architecture before them.

    Raises:
        InputError: where the family has no such files, or they cannot say all of the config.
    """
    assert family.gguf is not None  # the caller's own check
    table, scaling = family.gguf, config.rope_scaling
    raw = {"head_dim": config.head_dim} | family.write_config(config)
    values = {key: raw[name] for key, name in table.keys.items() if raw.get(name) is not None}
    said: dict[str, Any] = {"model_type": family.name, "vocab_size": config.vocab_size}
    said |= {"tie_word_embeddings": config.tie_embeddings, **{table.keys[key]: value for key, value in values.items()}}
    if "sliding_window" in table.keys.values() and raw.get("sliding_window") is None:
        values["attention.sliding_window"], said["sliding_window"] = 0, None
    if table.share_key is not None:
        values[_TURNED] = config.rotary_dim or config.head_dim
        said[table.share_key] = values[_TURNED] / config.head_dim
    if isinstance(scaling, Llama3RopeScaling):
        said["rope_scaling"] = raw["rope_scaling"]  # by the factors
    elif isinstance(scaling, LinearRopeScaling):
        said["rope_scaling"] = raw["rope_scaling"]
        values |= {_TYPE: "linear", _FACTOR: scaling.factor}
    elif isinstance(scaling, LongRopeScaling) and table.has_rope_factors:
        said |= {name: raw[name] for name in ("rope_scaling", "original_max_position_embeddings")}
        values |= {_ORIGINAL: scaling.original_max_position, _AMPLITUDE: scaling.amplitude}
    read = family.read_config(said | dict(table.implied(said)))
    if read != config:
        lost = next(name for name, value in vars(config).items() if getattr(read, name) != value)
        raise InputError(
            f"--format gguf: a file of the architecture {table.architecture} means {lost}="
            f"{getattr(read, lost)!r}, but the student has {getattr(config, lost)!r}; export it as safetensors."
        )
    return values


def factor_tensors(config: DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors that say how rotary frequencies are slowed down, float32, by their names in the file."""
    scaling = config.rope_scaling
    if isinstance(scaling, Llama3RopeScaling):
        yield ROPE_FACTORS, rope_factors(config, scaling)
    elif isinstance(scaling, LongRopeScaling):
        yield LONG_FACTORS, np.asarray(scaling.long_factors, np.float32)
        yield SHORT_FACTORS, np.asarray(scaling.short_factors, np.float32)
