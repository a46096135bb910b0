from typing import ClassVar

from family_checks import SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.gpt_neox import GPT_NEOX

NEOX_SHAPE = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}


def rope(share: float) -> dict:
    return {"rope_type": "default", "partial_rotary_factor": share, "rope_theta": 500.0}


class TestGPTNeoX(FamilyChecks):
    family = GPT_NEOX
    fullest = "side by side"
    cases: ClassVar = {
        "side by side": Case("GPTNeoXConfig", NEOX_SHAPE | {"rope_parameters": rope(0.25)}),
        "one after the other": Case(
            "GPTNeoXConfig",
            NEOX_SHAPE
            | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"}
            | {"rope_parameters": rope(1.0) | {"rope_type": "linear", "factor": 4.0}, "tie_word_embeddings": True},
        ),
    }
