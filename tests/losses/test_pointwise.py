"""Terms per word: their sums against NumPy float64, and which names are KLs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses import pointwise
from atkd_jax.losses.log_space import log_probabilities


@pytest.mark.parametrize("name", ["generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl"])
def test_terms_add_up_to_the_divergence(oracle, name):
    rng = np.random.default_rng(0)
    student, teacher = 2 * rng.normal(size=(2, 4, 9)).astype(np.float32)
    terms = pointwise.terms_of(name, beta=0.3, alpha=0.3)(log_probabilities(teacher), log_probabilities(student))
    assert terms.shape == student.shape
    np.testing.assert_allclose(
        pointwise.summed(terms), oracle.divergence(name, student, teacher, share=0.3), rtol=3e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "share", "direction"),
    [
        ("forward_kl", 0.5, "forward"),
        ("reverse_kl", 0.5, "reverse"),
        ("generalized_jsd", 0.0, "forward"),
        ("generalized_jsd", 1.0, "reverse"),
        ("generalized_jsd", 0.5, None),
        ("skewed_forward_kl", 0.0, "forward"),
        ("skewed_reverse_kl", 0.0, "reverse"),
        ("skewed_reverse_kl", 1.0, None),
        ("total_variation", 0.0, None),
    ],
)
def test_which_names_are_kls(name, share, direction):
    assert pointwise.kl_direction(name, beta=share, alpha=share) == direction


def test_a_model_mixed_with_itself_alone_does_not_differ():
    terms = pointwise.terms_of("skewed_reverse_kl", beta=0.5, alpha=1.0)
    np.testing.assert_array_equal(terms(jnp.zeros(3), jnp.ones(3)), np.zeros(3))


def test_a_sum_is_not_below_zero_and_keeps_its_derivative():
    terms = jnp.array([1e-9, -3e-9])
    value, gradient = jax.value_and_grad(pointwise.summed)(terms)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.ones(2))
