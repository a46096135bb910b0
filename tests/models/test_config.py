import dataclasses

import pytest
from llama_oracle import GROUPED

from atkd_jax.errors import InputError


def test_equal_numbers_make_equal_and_hashable_configs():
    assert hash(dataclasses.replace(GROUPED)) == hash(GROUPED)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_layers": 0}, "num_layers must be a whole number from 1 on, got 0"),
        ({"width": 32.0}, "width must be a whole number from 1 on, got 32.0"),
        ({"num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads, got 4 and 3"),
        (
            {"head_dim": 7},
            "head_dim, or .* must be even, .* turns pairs, and within the head, got 7",
        ),
        ({"activation": "tanh"}, "activation must be one of gelu, gelu_tanh, relu, silu, got 'tanh'"),
        ({"norm_eps": 0.0}, "norm_eps must be above 0, got 0.0"),
        ({"rotary_dim": 10}, "within the head, got 10 of 8"),
        ({"norm": "batch"}, "norm must be one of rms, rms_centred, layer, got 'batch'"),
        ({"norm_placement": "none"}, "norm_placement must be one of pre, post, branch, sandwich, got 'none'"),
        ({"positions": "none"}, "positions must be one of rotary, learned, got 'none'"),
        ({"qk_norm": "both"}, "qk_norm must be one of none, head, all_heads, got 'both'"),
        ({"window": 0}, "window must be a whole number from 1 on, got 0"),
        ({"logit_softcap": 0.0}, "logit_softcap must be above 0, got 0.0"),
        ({"rotary_layers": (True,)}, "rotary_layers must have a value for each of the 3 layers or be empty, got 1"),
        ({"windowed_layers": (True,) * 3}, "windowed_layers must come with a window, got none"),
        ({"parallel_residual": True, "norm_placement": "post"}, "parallel_residual must come with norm_placement pre"),
        ({"num_experts": 2, "experts_per_token": 3}, "experts_per_token must be between 1 and num_experts, .* got 3 a"),
        ({"num_experts": 2}, "experts_per_token must be between 1 and num_experts, or both 0, got 0 and 2"),
        ({"num_experts": 2, "experts_per_token": 1, "mlp_bias": True}, "experts must be gated and without biases"),
        ({"rope_theta": -1.0}, "rope_theta must be above 0, got -1.0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(GROUPED, **change)


def test_the_head_is_as_wide_as_the_embedding():
    assert GROUPED.head_width == GROUPED.width
    assert dataclasses.replace(GROUPED, embed_width=20).head_width == 20
