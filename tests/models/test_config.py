import dataclasses

import pytest
from llama_oracle import GROUPED

from atkd_jax.errors import InputError
from atkd_jax.models import Llama3RopeScaling


def test_equal_numbers_make_equal_and_hashable_configs():
    assert hash(dataclasses.replace(GROUPED)) == hash(GROUPED)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_layers": 0}, "num_layers must be a whole number from 1 on, got 0"),
        ({"width": 32.0}, "width must be a whole number from 1 on, got 32.0"),
        ({"num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads, got 4 and 3"),
        ({"head_dim": 7}, "head_dim must be even, because rotary embedding turns pairs, got 7"),
        ({"activation": "tanh"}, "activation must be one of silu, got 'tanh'"),
        ({"norm_eps": 0.0}, "norm_eps must be above 0, got 0.0"),
        ({"rope_theta": -1.0}, "rope_theta must be above 0, got -1.0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(GROUPED, **change)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0.5, 1.0, 4.0, 32), "factor must be at least 1, got 0.5"),
        ((8.0, 4.0, 4.0, 32), "low_freq_factor must be positive and below high_freq_factor, got 4.0 and 4.0"),
        ((8.0, 1.0, 4.0, 0), "original_max_position must be at least 1, got 0"),
    ],
)
def test_rope_scaling_that_does_not_fit_is_refused(numbers, sentence):
    with pytest.raises(InputError, match=sentence):
        Llama3RopeScaling(*numbers)
