"""LLaMA 1 to 3.x and the models built alike, SmolLM2 among them."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, Weight
from atkd_jax.interop.families.layouts import LINEAR, PLAIN
from atkd_jax.interop.families.rotary import read_rotary, write_rotary
from atkd_jax.models import DecoderConfig

_LAYER = "model.layers.{layer}."


def _heads_width(config: DecoderConfig) -> int:
    return config.num_heads * config.head_dim


def _kv_heads_width(config: DecoderConfig) -> int:
    return config.num_kv_heads * config.head_dim


_WEIGHTS = (
    Weight("embedding", "model.embed_tokens.weight", lambda c: (c.vocab_size, c.width), PLAIN),
    Weight("layers.attention_norm.scale", _LAYER + "input_layernorm.weight", lambda c: (c.width,), PLAIN),
    Weight(
        "layers.attention.query.kernel",
        _LAYER + "self_attn.q_proj.weight",
        lambda c: (_heads_width(c), c.width),
        LINEAR,
        rotary_heads="num_heads",
    ),
    Weight(
        "layers.attention.key.kernel",
        _LAYER + "self_attn.k_proj.weight",
        lambda c: (_kv_heads_width(c), c.width),
        LINEAR,
        rotary_heads="num_kv_heads",
    ),
    Weight(
        "layers.attention.value.kernel",
        _LAYER + "self_attn.v_proj.weight",
        lambda c: (_kv_heads_width(c), c.width),
        LINEAR,
    ),
    Weight(
        "layers.attention.output.kernel",
        _LAYER + "self_attn.o_proj.weight",
        lambda c: (c.width, _heads_width(c)),
        LINEAR,
    ),
    Weight("layers.mlp_norm.scale", _LAYER + "post_attention_layernorm.weight", lambda c: (c.width,), PLAIN),
    Weight("layers.mlp.gate.kernel", _LAYER + "mlp.gate_proj.weight", lambda c: (c.mlp_width, c.width), LINEAR),
    Weight("layers.mlp.up.kernel", _LAYER + "mlp.up_proj.weight", lambda c: (c.mlp_width, c.width), LINEAR),
    Weight("layers.mlp.down.kernel", _LAYER + "mlp.down_proj.weight", lambda c: (c.width, c.mlp_width), LINEAR),
    Weight("final_norm.scale", "model.norm.weight", lambda c: (c.width,), PLAIN),
)
_HEAD = Weight("head", "lm_head.weight", lambda c: (c.vocab_size, c.width), LINEAR)

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    keys=(
        ConfigKey("vocab_size", "vocab_size"),
        ConfigKey("hidden_size", "width"),
        ConfigKey("num_hidden_layers", "num_layers"),
        ConfigKey("num_attention_heads", "num_heads"),
        ConfigKey("num_key_value_heads", "num_kv_heads", lambda raw: raw["num_attention_heads"]),
        ConfigKey("head_dim", "head_dim", lambda raw: raw["hidden_size"] // max(1, raw["num_attention_heads"])),
        ConfigKey("intermediate_size", "mlp_width"),
        ConfigKey("rms_norm_eps", "norm_eps", 1e-6),
        ConfigKey("max_position_embeddings", "max_position", 2048),
        ConfigKey("tie_word_embeddings", "tie_embeddings", False),
        ConfigKey("hidden_act", "activation", "silu"),
    ),
    read_rotary=read_rotary,
    write_rotary=write_rotary,
    fixed={"attention_bias": False, "mlp_bias": False},
    weights=lambda config: _WEIGHTS if config.tie_embeddings else (*_WEIGHTS, _HEAD),
    # Old checkpoints keep the rotary frequencies; checkpoints with a tied head may keep the head all the same.
    ignored=("*.rotary_emb.inv_freq", "lm_head.weight"),
    gguf_architecture="llama",
    gguf_keys={
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
)
