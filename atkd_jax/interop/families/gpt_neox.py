"""GPT-NeoX and Pythia: attention and MLP side by side, a quarter of each head turned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import ConfigKey, Family, Fields, GGUFTable, Weight
from atkd_jax.interop.families.keys import activation_fields, implied_head_dim
from atkd_jax.interop.families.layouts import HEAD_BY_HEAD, PLAIN
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import QKV, fused, head_row, linear, norm
from atkd_jax.models import DecoderConfig

_BLOCK = "gpt_neox.layers.{layer}."


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    joined = {"bias": config.qkv_bias, "kernels": HEAD_BY_HEAD, "biases": HEAD_BY_HEAD}
    output_bias = config.output_bias
    return (
        Weight(("embedding",), "gpt_neox.embed_in.weight", ("vocab", "embed"), PLAIN),
        *norm("layers.attention_norm", _BLOCK + "input_layernorm", bias=True),
        *norm("layers.mlp_norm", _BLOCK + "post_attention_layernorm", bias=True),
        *fused(QKV, _BLOCK + "attention.query_key_value", "qkv", "width", **joined),
        *linear("layers.attention.output", _BLOCK + "attention.dense", "width", "heads", bias=output_bias),
        *linear("layers.mlp.up", _BLOCK + "mlp.dense_h_to_4h", "mlp", "width", bias=True),
        *linear("layers.mlp.down", _BLOCK + "mlp.dense_4h_to_h", "width", "mlp", bias=True),
        *norm("final_norm", "gpt_neox.final_layer_norm", bias=True),
        *head_row(config, "embed_out"),
    )


def _read_biases(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    has_bias = ConfigKey("attention_bias", "qkv_bias", True).read(raw)
    return {"qkv_bias": has_bias, "output_bias": has_bias}


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    keys=(
        ConfigKey("vocab_size", "vocab_size"),
        ConfigKey("hidden_size", "width"),
        ConfigKey("num_hidden_layers", "num_layers"),
        ConfigKey("num_attention_heads", "num_heads"),
        ConfigKey("num_attention_heads", "num_kv_heads"),
        ConfigKey("intermediate_size", "mlp_width"),
        ConfigKey("max_position_embeddings", "max_position", 2048),
        ConfigKey("layer_norm_eps", "norm_eps", 1e-5),
        ConfigKey("tie_word_embeddings", "tie_embeddings", False),
        ConfigKey("use_parallel_residual", "parallel_residual", True),
    ),
    fields=(
        activation_fields("hidden_act", default="gelu"),
        implied_head_dim("hidden_size", "num_attention_heads"),
        Fields(_read_biases, lambda config: {"attention_bias": config.qkv_bias}),
        rotary_fields(theta_key="rotary_emb_base", share_key="rotary_pct", default_share=0.25),
    ),
    constants={"norm": "layer", "gated_mlp": False, "mlp_bias": True},
    weights=_weights,
    # Old checkpoints keep the causal mask and the rotary frequencies.
    ignored=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq", "embed_out.weight"),
    gguf=GGUFTable(
        "gptneox",
        implied=lambda raw: {"tie_word_embeddings": False},
        keys={
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "attention.head_count": "num_attention_heads",
            "feed_forward_length": "intermediate_size",
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "context_length": "max_position_embeddings",
            "rope.freq_base": "rotary_emb_base",
            "use_parallel_residual": "use_parallel_residual",
        },
        share_key="rotary_pct",
    ),
)
