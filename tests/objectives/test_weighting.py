import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.objectives import weighted_sum


def test_weight_zero_silences_a_term_that_is_not_finite():
    weights = {"a": jnp.array([1.0, 0.0, 2.0])}
    value, gradient = jax.value_and_grad(lambda term: weighted_sum(weights, {"a": term}))(
        jnp.array([3.0, jnp.nan, 1.0])
    )
    assert float(value) == 5.0
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 2.0])
