"""GPT-2: learned positions, LayerNorm, biases everywhere; kernels lie as [inputs, outputs]."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, GGUFTable, Weight
from atkd_jax.interop.families.keys import activation_fields, implied_head_dim
from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.interop.families.rows import QKV, fused, head_row, joined_biases, joined_columns, linear, norm
from atkd_jax.models import DecoderConfig

_BLOCK = "transformer.h.{layer}."


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    plain = {"bias": True, "layout": PLAIN}
    joined = {"bias": True, "kernels": joined_columns, "biases": joined_biases}
    return (
        Weight(("embedding",), "transformer.wte.weight", ("vocab", "embed"), PLAIN),
        Weight(("position_embedding",), "transformer.wpe.weight", ("positions", "width"), PLAIN),
        *norm("layers.attention_norm", _BLOCK + "ln_1", bias=True),
        *fused(QKV, _BLOCK + "attn.c_attn", "qkv", "width", **joined),
        *linear("layers.attention.output", _BLOCK + "attn.c_proj", "width", "heads", **plain),
        *norm("layers.mlp_norm", _BLOCK + "ln_2", bias=True),
        *linear("layers.mlp.up", _BLOCK + "mlp.c_fc", "mlp", "width", **plain),
        *linear("layers.mlp.down", _BLOCK + "mlp.c_proj", "width", "mlp", **plain),
        *norm("final_norm", "transformer.ln_f", bias=True),
        *head_row(config),
    )


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    keys=(
        ConfigKey("vocab_size", "vocab_size", 50_257),
        ConfigKey("n_embd", "width", 768),
        ConfigKey("n_layer", "num_layers", 12),
        ConfigKey("n_head", "num_heads", 12),
        ConfigKey("n_head", "num_kv_heads", 12),
        ConfigKey("n_inner", "mlp_width", lambda raw: 4 * raw.get("n_embd", 768)),
        ConfigKey("n_positions", "max_position", 1024),
        ConfigKey("layer_norm_epsilon", "norm_eps", 1e-5),
        ConfigKey("tie_word_embeddings", "tie_embeddings", True),
    ),
    fields=(
        activation_fields("activation_function", default="gelu_new", tanh_name="gelu_new"),
        implied_head_dim("n_embd", "n_head"),
    ),
    constants={
        "norm": "layer",
        "positions": "learned",
        "qkv_bias": True,
        "output_bias": True,
        "gated_mlp": False,
        "mlp_bias": True,
    },
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    weights=_weights,
    # Old checkpoints keep the causal mask.
    ignored=("*.attn.bias", "*.attn.masked_bias", "lm_head.weight"),
    prefix="transformer.",
    gguf=GGUFTable(
        "gpt2",
        keys={
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "feed_forward_length": "n_inner",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "context_length": "n_positions",
        },
    ),
)
