from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.olmo2 import OLMO2


class TestOlmo2(FamilyChecks):
    family = OLMO2
    fullest = "biases"
    cases: ClassVar = {
        "tied": Case("Olmo2Config", SHAPE | OTHERWISE),
        "heads pruned away": Case("Olmo2Config", SHAPE | {"head_dim": 6}),
        "biases": Case("Olmo2Config", SHAPE | {"attention_bias": True}),
    }
