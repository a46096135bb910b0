"""Keys of config.json that many families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import ConfigKey, Fields
from atkd_jax.models import DecoderConfig

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def activation_fields(key: str, *, default: str, tanh_name: str = "gelu_pytorch_tanh") -> Fields:
    """Return how a family spells the activation.

    Args:
        key: in config.json.
        default: its value where it is absent.
        tanh_name: what GELU's approximation by tanh is written as.
    """

    def read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        name = default if raw.get(key) is None else raw[key]
        if name not in _ACTIVATIONS:
            raise InputError(
                f"must have one of {', '.join(_ACTIVATIONS)} at {key}, the ones computed here, but has {name!r}; "
                "choose another model."
            )
        return {"activation": _ACTIVATIONS[name]}

    def write(config: DecoderConfig) -> dict[str, Any]:
        return {key: tanh_name if config.activation == "gelu_tanh" else config.activation}

    return Fields(read, write)


def _biases(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    has_bias = ConfigKey("attention_bias", "qkv_bias", False).read(raw)
    return {"qkv_bias": has_bias, "output_bias": has_bias}


# One key for the biases of all four projections of attention.
ATTENTION_BIAS = Fields(_biases, lambda config: {"attention_bias": config.qkv_bias})

HEAD_DIM = ConfigKey("head_dim", "head_dim", lambda raw: raw["hidden_size"] // max(1, raw["num_attention_heads"]))


def implied_head_dim(width_key: str, heads_key: str, *, may_differ: bool = False) -> Fields:
    """Return how a family spells the size of a head that has no key: width by number of heads.

    Args:
        width_key: of config.json.
        heads_key: likewise.
        may_differ: whether transformers heeds `head_dim` all the same where a config has it, as pruned ones do.
    """

    def read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        if may_differ and raw.get("head_dim") is not None:
            return {"head_dim": ConfigKey("head_dim", "head_dim").read(raw)}
        return {"head_dim": fields["width"] // max(1, fields["num_heads"])}

    def write(config: DecoderConfig) -> dict[str, Any]:
        if may_differ and config.head_dim * config.num_heads != config.width:
            return {"head_dim": config.head_dim}
        if config.head_dim * config.num_heads != config.width:
            raise InputError(
                f"model config: num_heads times head_dim must be width in the family {config.family}, got "
                f"{config.num_heads} times {config.head_dim} and {config.width}; choose a shape that fits."
            )
        return {width_key: config.width, heads_key: config.num_heads}

    return Fields(read, write)


def decoder_keys(*, eps: float, max_position: int, tie: bool, kv_heads: Any = "num_attention_heads") -> tuple:
    """Return the keys of LLaMA's kind, with a family's own defaults.

    Args:
        eps: of the norms.
        max_position: the length that the model was trained for.
        tie: whether the head is the embedding.
        kv_heads: the number of heads with keys and values, or the name of the key that then says it.
    """
    return (
        ConfigKey("vocab_size", "vocab_size"),
        ConfigKey("hidden_size", "width"),
        ConfigKey("num_hidden_layers", "num_layers"),
        ConfigKey("num_attention_heads", "num_heads"),
        ConfigKey(
            "num_key_value_heads",
            "num_kv_heads",
            (lambda raw: raw[kv_heads]) if isinstance(kv_heads, str) else kv_heads,
        ),
        ConfigKey("intermediate_size", "mlp_width"),
        ConfigKey("rms_norm_eps", "norm_eps", eps),
        ConfigKey("max_position_embeddings", "max_position", max_position),
        ConfigKey("tie_word_embeddings", "tie_embeddings", tie),
    )
