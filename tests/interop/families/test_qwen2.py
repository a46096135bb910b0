from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.qwen2 import QWEN2


class TestQwen2(FamilyChecks):
    family = QWEN2
    fullest = "windows in two layers"
    cases: ClassVar = {
        "tied": Case("Qwen2Config", SHAPE | OTHERWISE),
        "heads pruned away": Case("Qwen2Config", SHAPE | {"head_dim": 6}),
        "windows in two layers": Case(
            "Qwen2Config", SHAPE | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
        ),
    }
