from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.smollm3 import SMOLLM3


class TestSmolLM3(FamilyChecks):
    family = SMOLLM3
    fullest = "biases and windows"
    cases: ClassVar = {
        "every other layer turns": Case(
            "SmolLM3Config", SHAPE | OTHERWISE | {"no_rope_layer_interval": 2, "tie_word_embeddings": False}
        ),
        "heads pruned away": Case("SmolLM3Config", SHAPE | {"head_dim": 6}),
        "biases and windows": Case(
            "SmolLM3Config",
            SHAPE
            | {"no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True, "sliding_window": 5}
            | {"attention_bias": True, "mlp_bias": True},
        ),
    }
