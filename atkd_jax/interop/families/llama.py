"""LLaMA 1 to 3.x and the models built alike, SmolLM2 among them."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, GGUFTable
from atkd_jax.interop.families.keys import ATTENTION_BIAS, HEAD_DIM, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=2048, tie=False),
        HEAD_DIM,
        ConfigKey("mlp_bias", "mlp_bias", False),
    ),
    fields=(activation_fields("hidden_act", default="silu"), ATTENTION_BIAS, rotary_fields()),
    weights=decoder_rows,
    ignored=IGNORED,
    gguf=GGUFTable("llama", has_paired_rows=True),
)
