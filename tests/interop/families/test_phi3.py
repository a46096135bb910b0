from typing import ClassVar

from family_checks import SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.phi3 import PHI3


class TestPhi3(FamilyChecks):
    family = PHI3
    fullest = "windows"
    cases: ClassVar = {
        "windows": Case("Phi3Config", SHAPE | {"sliding_window": 5}),
        "heads pruned away": Case(
            "Phi3Config",
            SHAPE | {"head_dim": 6, "num_key_value_heads": 4, "hidden_act": "gelu", "tie_word_embeddings": True},
        ),
        "half of a head turned": Case(
            "Phi3Config", SHAPE | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
        ),
    }
