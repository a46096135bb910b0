from typing import ClassVar

from family_checks import VOCAB_SIZE, Case, FamilyChecks

from atkd_jax.interop.families.gpt2 import GPT2

GPT2_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 96,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}


class TestGPT2(FamilyChecks):
    family = GPT2
    fullest = "as published"
    cases: ClassVar = {
        "as published": Case("GPT2Config", GPT2_SHAPE),
        "another MLP": Case(
            "GPT2Config", GPT2_SHAPE | {"n_inner": 40, "activation_function": "relu", "tie_word_embeddings": False}
        ),
    }
