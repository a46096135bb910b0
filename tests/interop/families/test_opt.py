from typing import ClassVar

from family_checks import SHAPE, Case, FamilyChecks

from atkd_jax.interop.families.opt import OPT

OPT_SHAPE = {key: value for key, value in SHAPE.items() if key not in ("num_key_value_heads", "intermediate_size")} | {
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "init_std": 0.15,
}


class TestOPT(FamilyChecks):
    family = OPT
    fullest = "norms after and a narrow embedding"
    cases: ClassVar = {
        "norms first": Case("OPTConfig", OPT_SHAPE),
        "norms after and a narrow embedding": Case(
            "OPTConfig", OPT_SHAPE | {"do_layer_norm_before": False, "word_embed_proj_dim": 20}
        ),
        "no biases and no final norm": Case(
            "OPTConfig",
            OPT_SHAPE
            | {"enable_bias": False, "_remove_final_layer_norm": True, "activation_function": "gelu"}
            | {"tie_word_embeddings": False},
        ),
    }
