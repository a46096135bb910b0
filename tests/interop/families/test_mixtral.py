from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.mixtral import MIXTRAL


class TestMixtral(FamilyChecks):
    family = MIXTRAL
    fullest = "two of four experts"
    cases: ClassVar = {
        "two of four experts": Case("MixtralConfig", SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
        "one expert and windows": Case(
            "MixtralConfig",
            SHAPE | OTHERWISE | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 5, "head_dim": 12},
        ),
    }
