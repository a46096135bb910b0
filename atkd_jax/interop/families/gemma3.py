"""Gemma 3, its language model: Gemma 2 with normalised queries and keys in place of soft caps, and two rotary bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import GGUF_KEYS, ConfigKey, Family, Fields, GGUFTable
from atkd_jax.interop.families.gemma2 import gemma_scale
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import DEFAULT_THETA, read_scaling, read_theta, rope_object, write_scaling
from atkd_jax.interop.families.rows import IGNORED, SANDWICH_NORMS, decoder_rows
from atkd_jax.interop.families.windows import alternating_fields
from atkd_jax.models import DecoderConfig


def _windowed(raw: Mapping[str, Any], num_layers: int) -> list[bool]:
    pattern = raw.get("sliding_window_pattern") or 6
    return [bool((layer + 1) % pattern) for layer in range(num_layers)]


def _read_rotary(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    rope = rope_object(raw)
    is_new = "full_attention" in rope or "sliding_attention" in rope
    whole, local = (rope.get(kind) or {} for kind in ("full_attention", "sliding_attention")) if is_new else (rope, {})
    return {
        "rope_theta": read_theta(raw, whole, key="rope_theta", default=1_000_000.0),
        "rope_scaling": read_scaling(raw, whole),
        "local_rope_theta": read_theta(raw, local, key="rope_local_base_freq", default=DEFAULT_THETA),
    }


def _write_rotary(config: DecoderConfig) -> dict[str, Any]:
    return {
        "rope_theta": config.rope_theta,
        "rope_local_base_freq": config.local_rope_theta,
        "rope_scaling": write_scaling(config.rope_scaling),
    }


GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=131_072, tie=True, kv_heads=4),
        ConfigKey("head_dim", "head_dim", 256),
        ConfigKey("query_pre_attn_scalar", "query_scalar", 256),
        ConfigKey("final_logit_softcapping", "logit_softcap", None),
        ConfigKey("sliding_window", "window", 4096),
    ),
    fields=(
        activation_fields("hidden_activation", default="gelu_pytorch_tanh"),
        ATTENTION_BIAS,
        alternating_fields(_windowed),
        Fields(_read_rotary, _write_rotary),
    ),
    constants={
        "norm": "rms_centred",
        "norm_placement": "sandwich",
        "scale_embeddings": True,
        "qk_norm": "head",
    },
    fixed={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    weights=lambda config: decoder_rows(config, norms=SANDWICH_NORMS),
    ignored=IGNORED,
    gguf=GGUFTable(
        "gemma3",
        implied=lambda raw: gemma_scale(raw, layers_of_largest=62),
        keys=GGUF_KEYS | {"attention.sliding_window": "sliding_window", "rope.freq_base_swa": "rope_local_base_freq"},
        adds_one_to_norms=True,
    ),
)
