"""OLMo 2: LLaMA with a norm after each branch instead of before it, and queries and keys normalised over all heads."""

from __future__ import annotations

from atkd_jax.interop.families.family import Family, GGUFTable
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys, implied_head_dim
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import BRANCH_NORMS, IGNORED, decoder_rows

OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    keys=decoder_keys(eps=1e-5, max_position=2048, tie=False),
    fields=(
        activation_fields("hidden_act", default="silu"),
        implied_head_dim("hidden_size", "num_attention_heads", may_differ=True),
        ATTENTION_BIAS,
        rotary_fields(),
    ),
    constants={"norm_placement": "branch", "qk_norm": "all_heads"},
    weights=lambda config: decoder_rows(config, norms=BRANCH_NORMS),
    ignored=IGNORED,
    gguf=GGUFTable("olmo2"),
)
