"""Mistral 7B and the models built alike: LLaMA with a window in every layer, or, since its version 0.2, in none."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, GGUFTable
from atkd_jax.interop.families.keys import HEAD_DIM, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=131_072, tie=False, kv_heads=8),
        HEAD_DIM,
        ConfigKey("sliding_window", "window", 4096),
    ),
    fields=(activation_fields("hidden_act", default="silu"), rotary_fields()),
    weights=decoder_rows,
    ignored=IGNORED,
    gguf=GGUFTable("llama", has_paired_rows=True, implied=lambda raw: {"sliding_window": None}),
)
