from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.gemma2 import GEMMA2

GEMMA = SHAPE | {"head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5}


class TestGemma2(FamilyChecks):
    family = GEMMA2
    fullest = "soft caps"
    cases: ClassVar = {
        "soft caps": Case("Gemma2Config", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
        "biases and no caps": Case(
            "Gemma2Config",
            GEMMA
            | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
            | {"attention_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 4, "head_dim": 8}
            | {"query_pre_attn_scalar": 16, "sliding_window": 7, "hidden_activation": "gelu"}
            | {"layer_types": ["full_attention", "sliding_attention"] * 2}
            | {"rope_parameters": OTHERWISE["rope_parameters"]},
        ),
    }
