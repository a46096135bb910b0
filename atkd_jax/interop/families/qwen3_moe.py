"""Qwen3-MoE: Qwen3 with many small MLPs per layer in place of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import ConfigKey, Family, Fields
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows, expert_rows
from atkd_jax.models import DecoderConfig

_EXPERTS = expert_rows(
    router="mlp.gate", expert="mlp.experts.{expert}.", gate="gate_proj", up="up_proj", down="down_proj"
)


def _read_window(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"window": raw.get("sliding_window") if raw.get("use_sliding_window") else None}


def _write_window(config: DecoderConfig) -> dict[str, Any]:
    # Every layer has experts; what the width of a layer without them would be is said nowhere else.
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "intermediate_size": config.mlp_width,
    }


QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    keys=(
        *(
            key
            for key in decoder_keys(eps=1e-6, max_position=32_768, tie=False, kv_heads=4)
            if key.field != "mlp_width"
        ),
        ConfigKey("head_dim", "head_dim", lambda raw: raw["hidden_size"] // max(1, raw["num_attention_heads"])),
        ConfigKey("moe_intermediate_size", "mlp_width", 768),
        ConfigKey("num_experts", "num_experts", lambda raw: raw.get("num_local_experts", 128)),
        ConfigKey("num_experts_per_tok", "experts_per_token", 8),
        ConfigKey("norm_topk_prob", "normalize_expert_weights", False),
    ),
    fields=(
        activation_fields("hidden_act", default="silu"),
        ATTENTION_BIAS,
        Fields(_read_window, _write_window),
        rotary_fields(),
    ),
    constants={"qk_norm": "head"},
    fixed={"decoder_sparse_step": 1, "mlp_only_layers": []},
    weights=lambda config: decoder_rows(config, mlp=_EXPERTS),
    ignored=IGNORED,
)
