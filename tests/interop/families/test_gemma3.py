from typing import ClassVar

from family_checks import SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.gemma3 import GEMMA3

GEMMA = SHAPE | {"head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5}


class TestGemma3(FamilyChecks):
    family = GEMMA3
    fullest = "slowed down"
    cases: ClassVar = {
        "two windows to a whole": Case(
            "Gemma3TextConfig",
            GEMMA
            | {"sliding_window_pattern": 3, "attention_bias": True, "tie_word_embeddings": False}
            | {"num_key_value_heads": 4, "head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 7}
            | {"hidden_activation": "gelu", "rope_local_base_freq": 5000.0},
        ),
        "slowed down": Case(
            "Gemma3TextConfig",
            GEMMA
            | {"layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]}
            | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "final_logit_softcapping": 3.0},
        ),
    }
