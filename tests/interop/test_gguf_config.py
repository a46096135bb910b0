import math
from types import SimpleNamespace

import numpy as np
import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families import family_for_gguf
from atkd_jax.interop.gguf_config import factor_tensors, metadata_of, raw_config
from atkd_jax.models import LinearRopeScaling, LongRopeScaling

GEMMA = {
    "embedding_length": 96,
    "block_count": 4,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "feed_forward_length": 64,
    "attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
    "context_length": 128,
    "attention.sliding_window": 32,
}
PHI = {key: value for key, value in GEMMA.items() if key != "attention.key_length"} | {
    "rope.dimension_count": 18,
    "attention.sliding_window": 0,
}


def read(architecture, values, tensors=()):
    family = family_for_gguf(architecture)
    metadata = {f"{architecture}.{key}": value for key, value in values.items()}
    metadata["tokenizer.ggml.tokens"] = ["a"] * 7
    held = {name: SimpleNamespace(data=np.asarray(data, np.float32)) for name, data in dict(tensors).items()}
    return family.read_config(raw_config(family, metadata, held))


@pytest.mark.parametrize(
    ("architecture", "layers", "scalar"),
    [("gemma2", 4, 16), ("gemma2", 46, 24), ("gemma3", 46, 16), ("gemma3", 62, 24)],
)
def test_gemmas_largest_models_scale_scores_by_the_width(architecture, layers, scalar):
    config = read(architecture, GEMMA | {"block_count": layers})
    assert config.query_scalar == scalar
    assert config.norm_eps == 1e-6  # and not what float32 makes of it
    is_windowed = [layer % 2 == 0 if architecture == "gemma2" else (layer + 1) % 6 != 0 for layer in range(layers)]
    assert config.windowed_layers == tuple(is_windowed)
    assert (config.tie_embeddings, config.window, config.activation) == (True, 32, "gelu_tanh")


def test_what_gemma_2_leaves_out_is_what_it_was_published_with():
    config = read("gemma2", GEMMA)
    assert (config.attention_softcap, config.logit_softcap, config.rope_theta) == (50.0, 30.0, 10_000.0)
    said = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}
    assert read("gemma2", GEMMA | said).attention_softcap == 20.0


def test_linear_scaling_is_read():
    config = read("gemma3", GEMMA | {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base": 1e6})
    assert config.rope_scaling == LinearRopeScaling(8.0)
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 10_000.0)
    with pytest.raises(InputError, match="must have unscaled rotary embeddings, or linear ones, but has yarn ones"):
        read("gemma3", GEMMA | {"rope.scaling.type": "yarn"})


def test_experts_are_refused():
    with pytest.raises(InputError, match="must hold a dense model, but has 8 experts"):
        read("llama", GEMMA | {"expert_count": 8})


@pytest.mark.parametrize("key", ["attention.head_count", "embedding_length"])
def test_a_missing_key_is_named_in_the_words_of_config_json(key):
    name = {"attention.head_count": "num_attention_heads", "embedding_length": "hidden_size"}[key]
    with pytest.raises(InputError, match=f"must have the key {name}, but does not"):
        read("phi3", {other: value for other, value in PHI.items() if other != key})


def test_phi_turns_a_part_of_a_head_by_two_sets_of_factors():
    plain = read("phi3", PHI)
    assert (plain.head_dim, plain.rotary_dim, plain.window, plain.rope_scaling) == (24, 18, None, None)
    factors = {"rope_factors_short.weight": np.full(9, 1.1), "rope_factors_long.weight": np.full(9, 3.3)}
    amplitude = math.sqrt(1 + math.log(4) / math.log(32))
    scaled = PHI | {"rope.scaling.original_context_length": 32}
    expected = LongRopeScaling((1.1,) * 9, (3.3,) * 9, 32, amplitude)
    for given in ({}, {"rope.scaling.attn_factor": float(np.float32(amplitude))}):
        assert read("phi3", scaled | given, factors).rope_scaling == expected
    config = read("phi3", scaled | {"rope.scaling.attn_factor": 1.5}, factors)
    assert config.rope_scaling.amplitude == 1.5
    written = metadata_of(family_for_gguf("phi3"), config)
    assert {key: written[key] for key in scaled} == scaled | {"attention.layer_norm_rms_epsilon": 1e-6}
    assert written["rope.scaling.attn_factor"] == 1.5
    for name, array in factor_tensors(config):
        np.testing.assert_array_equal(array, factors[name].astype(np.float32))
