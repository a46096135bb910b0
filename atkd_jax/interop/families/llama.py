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
    gguf=GGUFTable(
        "llama",
        {
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_key_value_heads",
            "rope.dimension_count": "head_dim",
            "feed_forward_length": "intermediate_size",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps",
            "context_length": "max_position_embeddings",
            "rope.freq_base": "rope_theta",
        },
        has_paired_rows=True,
    ),
)
