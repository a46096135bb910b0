"""SmolLM3: LLaMA in which every fourth layer has no positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import ConfigKey, Family, Fields, GGUFTable
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys, implied_head_dim
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows
from atkd_jax.interop.families.windows import read_layer_types, write_layer_types
from atkd_jax.models import DecoderConfig


def _read_layers(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    num_layers = fields["num_layers"]
    interval = raw.get("no_rope_layer_interval") or 4
    turns = raw.get("no_rope_layers")
    if turns is None:
        turns = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    if not isinstance(turns, list) or len(turns) < num_layers or any(turn not in (0, 1) for turn in turns):
        raise InputError(f"must have a 0 or 1 per layer at no_rope_layers, but has {turns!r}; correct it.")
    rotary = tuple(turn == 1 for turn in turns[:num_layers])
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    windowed = read_layer_types(raw, [not turn for turn in rotary])
    return {"rotary_layers": rotary} | (
        {"window": window, "windowed_layers": windowed} if window is not None and any(windowed) else {}
    )


def _write_layers(config: DecoderConfig) -> dict[str, Any]:
    rotary = config.rotary_layers or (True,) * config.num_layers
    return {
        "no_rope_layers": [int(turn) for turn in rotary],
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": write_layer_types(config),
    }


SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=32_768, tie=True, kv_heads=4),
        ConfigKey("mlp_bias", "mlp_bias", False),
    ),
    fields=(
        activation_fields("hidden_act", default="silu"),
        implied_head_dim("hidden_size", "num_attention_heads", may_differ=True),
        ATTENTION_BIAS,
        Fields(_read_layers, _write_layers),
        rotary_fields(default_theta=2_000_000.0),
    ),
    weights=decoder_rows,
    ignored=IGNORED,
    gguf=GGUFTable(
        "smollm3",
        has_paired_rows=True,
        implied=lambda raw: {"no_rope_layers": None, "no_rope_layer_interval": 4},
    ),
)
