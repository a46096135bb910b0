"""Rules that no public function shows by itself; their words are tested where users meet them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses import validation


def test_numbers_of_python_and_numpy_pass():
    assert validation.fraction("f", "share", np.float32(0.5)) == 0.5
    assert validation.fraction("f", "share", 1) == 1.0
    assert validation.weight("f", "weight", np.float64(3)) == 3.0


def test_traced_weights_pass():
    assert jax.jit(lambda x: validation.weight("f", "weight", x, largest=1.0))(5.0) == 5.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_weights_are_finite_and_not_negative(value):
    with pytest.raises(ValueError, match="f: weight must not be negative, got"):
        validation.weight("f", "weight", value)


def test_scaling_by_one_is_no_operation():
    logits = jnp.ones(3)
    assert validation.scaled("f", 1, logits)[0] is logits
    np.testing.assert_array_equal(validation.scaled("f", 4, logits)[0], np.full(3, 0.25))


def test_an_array_that_is_no_array():
    with pytest.raises(ValueError, match=r"f: x must have shape \[\.\.\., vocab\], got \(2, 0\)"):
        validation.floating("f", x=np.zeros((2, 0), np.float32))
