"""How config.json spells rotary embeddings: transformers 5 in `rope_parameters`, everything before it in two keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.models import DecoderConfig, Llama3RopeScaling

_DEFAULT_THETA = 10_000.0


def _number(scaling: Mapping[str, Any], key: str) -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"must have a number at {key} of its rotary scaling, but has {value!r}; correct it.")
    return float(value)


def read_rotary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rope_theta` and `rope_scaling` of DecoderConfig out of config.json.

    Raises:
        InputError: where positions turn in a way that the decoder does not compute.
    """
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"must have an object at rope_parameters, but has {scaling!r}; correct it.")
    theta = _number({"rope_theta": _DEFAULT_THETA} | {k: v for k, v in raw.items() if v is not None}, "rope_theta")
    if scaling.get("rope_theta") is not None:
        theta = _number(scaling, "rope_theta")
    share = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if share not in (None, 1, 1.0) or kind not in ("default", "llama3"):
        raise InputError(
            "must turn whole heads by rotary embedding of type default or llama3, the ones computed here, but has "
            f"type {kind!r} and partial_rotary_factor {share!r}; choose another model."
        )
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    # transformers' own rule for a file that does not say at which length the model was trained first.
    original = {"original_max_position_embeddings": raw.get("max_position_embeddings")} | scaling
    return {
        "rope_theta": theta,
        "rope_scaling": Llama3RopeScaling(
            factor=_number(scaling, "factor"),
            low_freq_factor=_number(scaling, "low_freq_factor"),
            high_freq_factor=_number(scaling, "high_freq_factor"),
            original_max_position=int(_number(original, "original_max_position_embeddings")),
        ),
    }


def write_rotary(config: DecoderConfig) -> dict[str, Any]:
    """Return the keys of config.json that say how positions turn, in the old spelling, which every reader knows."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_theta, "rope_scaling": None}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        },
    }
