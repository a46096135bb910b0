"""A student that was cut in its width goes out as a config and tensors that transformers reads as the same model."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from family_checks import SHAPE, Case, logits_of, torch_logits

from atkd_jax.interop import export_model, load_model
from atkd_jax.models import Pruning, prune_model

UNITS = tuple(tuple(range(start, 48, 2)) for start in (0, 1, 0))
HEADS = ((1,), (0,), (1,))
LAYERS = (0, 2, 3)
CASES = {
    "llama": (Case("LlamaConfig", SHAPE | {"attention_bias": True, "mlp_bias": True}), HEADS),
    "qwen2": (Case("Qwen2Config", SHAPE | {"tie_word_embeddings": True}), HEADS),
    "phi3": (Case("Phi3Config", SHAPE | {"sliding_window": 5}), HEADS),
    "gemma2": (Case("Gemma2Config", SHAPE | {"head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5}), HEADS),
    "gpt2": (
        Case(
            "GPT2Config",
            {
                "vocab_size": 97,
                "n_embd": 32,
                "n_layer": 4,
                "n_head": 4,
                "n_inner": 48,
                "initializer_range": 0.15,
                "bos_token_id": None,
                "eos_token_id": None,
            },
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_a_narrow_student(name, tmp_path, tiny_tokenizer_97):
    case, heads = CASES[name]
    case.model().save_pretrained(tmp_path / "teacher")
    student = prune_model(load_model(tmp_path / "teacher"), Pruning(LAYERS, UNITS, heads))
    assert student.config.mlp_width == 24
    assert heads is None or (student.config.num_kv_heads, student.config.num_heads) == (1, 2)
    export_model(
        student,
        tmp_path / "student",
        tokenizer=tiny_tokenizer_97,
        dtype=jnp.float32,
        max_shard_bytes=10**9,
        model_card="",
        generation_config={},
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", attn_implementation="eager")
    expected = torch_logits(theirs.eval())
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits_of(student), expected, atol=1e-4, rtol=0)


def test_cutting_is_silencing(tmp_path):
    """transformers' whole model, with all that is cut silenced where it would be added to the stream."""
    oracle = CASES["llama"][0].model()
    oracle.save_pretrained(tmp_path / "teacher")
    student = prune_model(load_model(tmp_path / "teacher"), Pruning((0, 1, 2, 3), (*UNITS, UNITS[0]), (*HEADS, (0,))))
    with torch.no_grad():
        for layer, units, (kept,) in zip(oracle.model.layers, (*UNITS, UNITS[0]), (*HEADS, (0,)), strict=True):
            silent = torch.ones(48, dtype=torch.bool)
            silent[list(units)] = False
            layer.mlp.down_proj.weight[:, silent] = 0
            heads = layer.self_attn.o_proj.weight.view(32, 2, 16)  # two groups of two query heads, 8 wide each
            heads[:, 1 - kept] = 0
    np.testing.assert_allclose(logits_of(student), torch_logits(oracle), atol=1e-4, rtol=0)
