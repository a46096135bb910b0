import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.errors import InputError
from atkd_jax.interop.gguf_layout import paired, rope_factors, scaling_of_factors, unpaired
from atkd_jax.models import DecoderConfig, Llama3RopeScaling

from .conftest import paired as row_by_row

CONFIG = DecoderConfig(vocab_size=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=128, mlp_width=4)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (3,)]))
def test_pairs_are_those_of_row_by_row_and_come_apart_again(heads, pairs, rest):
    rows = np.random.default_rng(0).normal(size=(heads * pairs * 2, *rest))
    np.testing.assert_array_equal(paired(rows, heads), row_by_row(rows, heads))
    np.testing.assert_array_equal(unpaired(paired(rows, heads), heads), rows)


@pytest.mark.parametrize(("theta", "factor"), [(500_000.0, 8.0), (500_000.0, 32.0), (10_000.0, 2.0)])
def test_llama_3s_factors_tell_what_they_came_from(theta, factor):
    config = dataclasses.replace(CONFIG, rope_theta=theta)
    factors = rope_factors(config, Llama3RopeScaling(factor, 1.0, 4.0, 8192))
    assert (factors[0], factors[-1]) == (1.0, pytest.approx(factor if theta > 1e5 else factors[-1]))
    found = scaling_of_factors(config, factors)
    assert found["rope_type"] == "llama3"
    assert found["factor"] == pytest.approx(float(factors.max()), rel=1e-6)
    with pytest.raises(InputError, match="must have the rotary factors of LLaMA 3"):
        scaling_of_factors(config, factors * np.linspace(1, 2, len(factors), dtype=np.float32))
