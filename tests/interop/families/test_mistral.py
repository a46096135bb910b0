from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.mistral import MISTRAL


class TestMistral(FamilyChecks):
    family = MISTRAL
    fullest = "windows"
    cases: ClassVar = {
        "windows": Case("MistralConfig", SHAPE | {"head_dim": 12, "sliding_window": 5}),
        "no window": Case("MistralConfig", SHAPE | OTHERWISE | {"sliding_window": None}),
    }
