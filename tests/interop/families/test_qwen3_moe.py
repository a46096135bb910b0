from typing import ClassVar

from family_checks import OTHERWISE, SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.qwen3_moe import QWEN3_MOE

EXPERTS = SHAPE | {"head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


class TestQwen3MoE(FamilyChecks):
    family = QWEN3_MOE
    fullest = "biases and windows"
    cases: ClassVar = {
        "weights that sum to 1": Case(
            "Qwen3MoeConfig",
            EXPERTS | OTHERWISE | {"num_experts": 6, "head_dim": 8, "num_experts_per_tok": 3, "norm_topk_prob": True},
        ),
        "biases and windows": Case(
            "Qwen3MoeConfig",
            EXPERTS
            | {"norm_topk_prob": False, "attention_bias": True, "use_sliding_window": True, "sliding_window": 5},
        ),
    }
