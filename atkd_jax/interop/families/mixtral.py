"""Mixtral: Mistral with eight MLPs per layer, of which each token goes through two."""

from __future__ import annotations

from atkd_jax.interop.families.family import ConfigKey, Family
from atkd_jax.interop.families.keys import HEAD_DIM, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, decoder_rows, expert_rows

_EXPERTS = expert_rows(
    router="block_sparse_moe.gate", expert="block_sparse_moe.experts.{expert}.", gate="w1", up="w3", down="w2"
)

MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    keys=(
        *decoder_keys(eps=1e-5, max_position=131_072, tie=False, kv_heads=8),
        HEAD_DIM,
        ConfigKey("num_local_experts", "num_experts", 8),
        ConfigKey("num_experts_per_tok", "experts_per_token", 2),
        ConfigKey("sliding_window", "window", None),
    ),
    fields=(activation_fields("hidden_act", default="silu"), rotary_fields(default_theta=1_000_000.0)),
    weights=lambda config: decoder_rows(config, mlp=_EXPERTS),
    ignored=IGNORED,
)
