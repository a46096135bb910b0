"""Qwen3: LLaMA with normalised queries and keys, and a head size of its own."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, GGUFTable
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows
from atkd_jax.interop.families.windows import OPTIONAL_WINDOWS

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=32_768, tie=False, kv_heads=32),
        ConfigKey("head_dim", "head_dim", 128),
    ),
    fields=(
        activation_fields("hidden_act", default="silu"),
        ATTENTION_BIAS,
        OPTIONAL_WINDOWS,
        rotary_fields(),
    ),
    constants={"qk_norm": "head"},
    weights=decoder_rows,
    ignored=IGNORED,
    gguf=GGUFTable("qwen3"),
)
