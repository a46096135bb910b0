from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.qwen3 import QWEN3


class TestQwen3(FamilyChecks):
    family = QWEN3
    fullest = "biases and windows"
    cases: ClassVar = {
        "wide heads": Case("Qwen3Config", SHAPE | OTHERWISE | {"head_dim": 12}),
        "biases and windows": Case(
            "Qwen3Config",
            SHAPE
            | {"head_dim": 10, "attention_bias": True}
            | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        ),
    }
