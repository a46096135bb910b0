from typing import ClassVar

from family_checks import SHAPE, Case, FamilyChecks
from transformers import LlamaConfig

from atkd_jax.interop.families.llama import LLAMA

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 8000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 50_000.0}


class TestLlama(FamilyChecks):
    family = LLAMA
    fullest = "biases"
    cases: ClassVar = {
        "wide heads": Case("LlamaConfig", SHAPE | {"head_dim": 12, "num_key_value_heads": 4, "hidden_act": "gelu"}),
        "biases": Case(
            "LlamaConfig",
            # Texts are longer than this: every token turns by other frequencies than the one before.
            SHAPE
            | {"attention_bias": True, "mlp_bias": True, "max_position_embeddings": 16}
            | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 50_000.0}},
        ),
        "3.1, tied": Case("LlamaConfig", SHAPE | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
        "slowed down evenly": Case("LlamaConfig", SHAPE | {"rope_parameters": LINEAR}),
    }


def test_what_old_configs_leave_out_has_its_old_meaning():
    raw = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "rope_scaling": None,
    }
    theirs = LlamaConfig(**{key: value for key, value in raw.items() if key != "model_type"})
    ours = LLAMA.read_config(raw)
    assert ours.num_kv_heads == theirs.num_key_value_heads == 8
    assert ours.head_dim == theirs.head_dim == 8
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.max_position == theirs.max_position_embeddings
    assert ours.tie_embeddings == theirs.tie_word_embeddings
