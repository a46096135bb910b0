"""Qwen2 and Qwen2.5: LLaMA with biases of queries, keys and values."""

from __future__ import annotations

from atkd_jax.interop.families.family import Family, GGUFTable
from atkd_jax.interop.families.keys import activation_fields, decoder_keys, implied_head_dim
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows
from atkd_jax.interop.families.windows import OPTIONAL_WINDOWS

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    keys=decoder_keys(eps=1e-6, max_position=32_768, tie=False, kv_heads=32),
    fields=(
        activation_fields("hidden_act", default="silu"),
        implied_head_dim("hidden_size", "num_attention_heads", may_differ=True),
        OPTIONAL_WINDOWS,
        rotary_fields(),
    ),
    constants={"qkv_bias": True},
    weights=decoder_rows,
    ignored=IGNORED,
    gguf=GGUFTable("qwen2"),
)
