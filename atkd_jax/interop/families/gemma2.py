"""Gemma 2: norms around both branches, soft caps, windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import GGUF_KEYS, ConfigKey, Family, GGUFTable
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.interop.families.rows import IGNORED, SANDWICH_NORMS, decoder_rows
from atkd_jax.interop.families.windows import alternating_fields


def gemma_scale(raw: Mapping[str, Any], *, layers_of_largest: int) -> dict[str, Any]:
    """Return the scale of attention that llama.cpp gives Gemma: by the size of a head, of the largest by the width."""
    if raw.get("num_hidden_layers") == layers_of_largest and raw.get("num_attention_heads"):
        return {"query_pre_attn_scalar": raw.get("hidden_size", 0) // raw["num_attention_heads"]}
    return {"query_pre_attn_scalar": raw.get("head_dim", 256)}


GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-6, max_position=8192, tie=True, kv_heads=4),
        ConfigKey("head_dim", "head_dim", 256),
        ConfigKey("query_pre_attn_scalar", "query_scalar", 256),
        ConfigKey("attn_logit_softcapping", "attention_softcap", 50.0),
        ConfigKey("final_logit_softcapping", "logit_softcap", 30.0),
        ConfigKey("sliding_window", "window", 4096),
    ),
    fields=(
        activation_fields("hidden_activation", default="gelu_pytorch_tanh"),
        ATTENTION_BIAS,
        alternating_fields(lambda raw, num_layers: [layer % 2 == 0 for layer in range(num_layers)]),
        rotary_fields(),
    ),
    constants={"norm": "rms_centred", "norm_placement": "sandwich", "scale_embeddings": True},
    fixed={"use_bidirectional_attention": None},
    weights=lambda config: decoder_rows(config, norms=SANDWICH_NORMS),
    ignored=IGNORED,
    gguf=GGUFTable(
        "gemma2",
        implied=lambda raw: gemma_scale(raw, layers_of_largest=46) | {"tie_word_embeddings": True},
        keys=GGUF_KEYS
        | {
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        adds_one_to_norms=True,
    ),
)
