"""Phi-3: LLaMA whose queries, keys and values stand in one tensor, and gate and up in another."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family, Weight
from atkd_jax.interop.families.keys import activation_fields, decoder_keys, implied_head_dim
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import BLOCK, IGNORED, QKV, decoder_rows, fused, joined_biases, joined_rows, linear
from atkd_jax.models import DecoderConfig


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    layouts = {"bias": False, "kernels": joined_rows, "biases": joined_biases}
    gate_up = ("layers.mlp.gate", "layers.mlp.up")
    return decoder_rows(
        config,
        attention=(
            *fused(QKV, BLOCK + "self_attn.qkv_proj", "qkv", "width", **layouts),
            *linear("layers.attention.output", BLOCK + "self_attn.o_proj", "width", "heads"),
        ),
        mlp=(
            *fused(gate_up, BLOCK + "mlp.gate_up_proj", "gate_up", "width", **layouts),
            *linear("layers.mlp.down", BLOCK + "mlp.down_proj", "width", "mlp"),
        ),
    )


PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-5, max_position=4096, tie=False),
        ConfigKey("sliding_window", "window", None),
    ),
    fields=(
        activation_fields("hidden_act", default="silu"),
        implied_head_dim("hidden_size", "num_attention_heads", may_differ=True),
        rotary_fields(),
    ),
    weights=_weights,
    ignored=IGNORED,
)
