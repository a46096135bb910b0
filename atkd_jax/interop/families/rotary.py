"""How config.json spells rotary embeddings: transformers 5 in `rope_parameters`, those before it in several keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import Fields
from atkd_jax.models import (
    DecoderConfig,
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeScaling,
    YarnRopeScaling,
)
from atkd_jax.models.rope_scaling import longrope_amplitude, yarn_amplitude

DEFAULT_THETA = 10_000.0


def _number(scaling: Mapping[str, Any], key: str) -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"must have a number at {key} of its rotary scaling, but has {value!r}; correct it.")
    return float(value)


def _numbers(scaling: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = scaling.get(key)
    if not isinstance(values, list):
        raise InputError(f"must have a list of numbers at {key} of its rotary scaling, but has {values!r}; correct it.")
    return tuple(_number({key: value}, key) for value in values)


def rope_object(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what config.json has under the new key or the old one; empty where it has nothing."""
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise InputError(f"must have an object at rope_parameters, but has {found!r}; correct it.")
    return found


def read_theta(raw: Mapping[str, Any], rope: Mapping[str, Any], *, key: str, default: float) -> float:
    """Return the base out of the object, out of the old key beside it, or the default."""
    for holder, name in ((rope, "rope_theta"), (raw, key)):
        if holder.get(name) is not None:
            return _number(holder, name)
    return default


def read_scaling(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling | None:
    """Return how the frequencies are slowed down.

    Raises:
        InputError: where they are in a way that the decoder does not compute.
    """
    match rope.get("rope_type", rope.get("type", "default")):
        case "default":
            return None
        case "linear":
            return LinearRopeScaling(_number(rope, "factor"))
        case "llama3":
            return Llama3RopeScaling(
                factor=_number(rope, "factor"),
                low_freq_factor=_number(rope, "low_freq_factor"),
                high_freq_factor=_number(rope, "high_freq_factor"),
                original_max_position=_original_length(raw, rope),
            )
        case "yarn":
            return _read_yarn(raw, rope)
        case "longrope":
            return _read_longrope(raw, rope)
        case "dynamic":
            # The length is the one that the file names, whatever else the object says.
            return DynamicRopeScaling(_number(rope, "factor"), int(_number(raw, "max_position_embeddings")))
        case kind:
            raise InputError(
                "must turn heads by rotary embedding of type default, linear, dynamic, llama3, yarn or longrope, the "
                f"ones computed here, but has type {kind!r}; choose another model."
            )


def _original_length(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    key = "original_max_position_embeddings"
    # transformers' own rule: what stands outside of the object goes first, and the whole length where neither says.
    given = (raw.get(key), rope.get(key), raw.get("max_position_embeddings"))
    return int(_number({key: next((value for value in given if value is not None), None)}, key))


def _factor(raw: Mapping[str, Any], rope: Mapping[str, Any], original: int) -> float:
    if rope.get("factor") is None:
        return _number(raw, "max_position_embeddings") / original
    return _number(rope, "factor")


def _read_longrope(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> LongRopeScaling:
    original = _original_length(raw, rope)
    if rope.get("attention_factor") is not None:
        amplitude = _number(rope, "attention_factor")
    else:
        amplitude = longrope_amplitude(_factor(raw, rope, original), original)
    return LongRopeScaling(_numbers(rope, "short_factor"), _numbers(rope, "long_factor"), original, amplitude)


def _read_yarn(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> YarnRopeScaling:
    original = _original_length(raw, rope)
    factor = _factor(raw, rope, original)
    if rope.get("attention_factor") is not None:
        amplitude = _number(rope, "attention_factor")
    elif rope.get("mscale") and rope.get("mscale_all_dim"):
        scales = (_number(rope, name) for name in ("mscale", "mscale_all_dim"))
        above, below = (yarn_amplitude(factor, scale) for scale in scales)
        amplitude = above / below
    else:
        amplitude = yarn_amplitude(factor)
    # Null and 0 mean the defaults.
    fast, slow = (_number(rope, key) if rope.get(key) else None for key in ("beta_fast", "beta_slow"))
    return YarnRopeScaling(factor, original, amplitude, fast or 32.0, slow or 1.0, bool(rope.get("truncate", True)))


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return the object at `rope_scaling`, in the old spelling, which every reader knows."""
    match scaling:
        case LinearRopeScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3RopeScaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position,
            }
        case YarnRopeScaling():
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_max_position,
                "attention_factor": scaling.amplitude,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.whole_pairs,
            }
        case LongRopeScaling():
            return {
                "rope_type": "longrope",
                "short_factor": list(scaling.short_factors),
                "long_factor": list(scaling.long_factors),
                "original_max_position_embeddings": scaling.original_max_position,
                "attention_factor": scaling.amplitude,
            }
        case DynamicRopeScaling():
            return {"rope_type": "dynamic", "factor": scaling.factor}
    return None


def rotary_fields(
    *,
    theta_key: str = "rope_theta",
    default_theta: float = DEFAULT_THETA,
    share_key: str = "partial_rotary_factor",
    default_share: float = 1.0,
) -> Fields:
    """Return how a family spells the base, the scaling and the share of each head that is turned.

    Args:
        theta_key: the base, outside of the object.
        default_theta: the base of a file that does not say.
        share_key: the share, outside of the object.
        default_share: the share in a file that does not say.
    """

    def read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        rope = rope_object(raw)
        given = [rope.get("partial_rotary_factor"), raw.get(share_key), default_share]
        share = next(value for value in given if value is not None)
        rotary_dim = int(fields["head_dim"] * _number({share_key: share}, share_key))
        return {
            "rope_theta": read_theta(raw, rope, key=theta_key, default=default_theta),
            "rope_scaling": read_scaling(raw, rope),
            "rotary_dim": None if rotary_dim == fields["head_dim"] else rotary_dim,
        }

    def write(config: DecoderConfig) -> dict[str, Any]:
        share = 1.0 if config.rotary_dim is None else config.rotary_dim / config.head_dim
        written = {theta_key: config.rope_theta, "rope_scaling": write_scaling(config.rope_scaling)}
        return written if share == default_share == 1.0 else written | {share_key: share}

    return Fields(read, write)
