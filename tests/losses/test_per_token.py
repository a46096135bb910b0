"""What all losses on sequences ask of their arrays; the words are tested where users meet them."""

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.losses.per_token import counted_numbers, numbers_of_one_type


def test_the_widest_type_wins_and_half_precision_is_widened():
    with jax.enable_x64(True):
        assert [x.dtype for x in numbers_of_one_type("f", a=np.ones(2), b=jnp.ones(2, "float32"))] == [np.float64] * 2
    assert numbers_of_one_type("f", a=jnp.ones(2, jnp.bfloat16))[0].dtype == jnp.float32


def test_what_does_not_count_is_zero_before_anything_is_computed():
    mask, (numbers,) = counted_numbers("f", np.array([True, False]), x=np.array([2.0, np.nan], np.float32))
    np.testing.assert_array_equal(numbers, [2, 0])
    assert mask.dtype == bool
