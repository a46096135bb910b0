"""What the public functions cannot show: the precision that is kept at the edges, and what the backward pass keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses import log_space


def test_normalized_keeps_digits_of_large_logits():
    """A log-sum-exp near 1e4 has steps of 1e-3; kept apart from the maximum it has float32's full precision."""
    logits = np.float32(1e4) + np.array([0.0, 0.25, -0.5], np.float32)
    shifted, log_sum, mass = log_space.normalized(jnp.asarray(logits))
    expected = np.float64(logits) - 1e4 - np.log(np.exp(np.float64(logits) - 1e4).sum())
    np.testing.assert_allclose(shifted - log_sum, expected, rtol=1e-6)
    assert mass.all()


def test_an_empty_distribution():
    empty, uniform = jnp.full(3, -jnp.inf), jnp.zeros(3)
    _, log_sum, mass = log_space.normalized(empty)
    assert log_sum == 0
    assert not mass
    assert log_space.relative_entropy(empty, uniform) == 0
    assert log_space.relative_entropy(empty, empty) == 0
    for argument in (0, 1):
        np.testing.assert_array_equal(jax.grad(log_space.relative_entropy, argument)(empty, uniform), np.zeros(3))


@pytest.mark.parametrize("gap", [-1e30, -100.0, -1e-6, 0.0, 1e-6, 3.0, 100.0, 1e30])
@pytest.mark.parametrize("weight", [1e-3, 0.5, 0.999])
def test_the_ratio_of_a_mixture_is_exact_for_every_gap(gap, weight):
    with np.errstate(over="ignore"):
        exact = np.float64(gap)
        expected = np.log1p(weight * np.expm1(exact)) if exact < 500 else exact + np.log(weight)
    value, slope = jax.value_and_grad(log_space.log_mixture_ratio)(jnp.float32(gap), weight)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    odds = np.log(weight / (1 - weight))
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-np.clip(exact + odds, -700, 700))), rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize(("p", "q"), [(np.inf, np.inf), (-np.inf, -np.inf), (np.inf, 2.0), (-np.inf, 2.0), (1.0, 1.0)])
def test_binary_relative_entropy_at_its_ends(p, q):
    value, slopes = jax.value_and_grad(log_space.binary_relative_entropy, (0, 1))(jnp.float32(p), jnp.float32(q))
    expected = 0.0 if p == q else np.logaddexp(0, -q if p > 0 else q)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(slopes).all()


def test_only_the_logits_are_kept_for_the_backward_pass():
    p, q, targets = jnp.zeros((4, 7)), jnp.ones((4, 7)), jnp.zeros(4, jnp.int32)
    for function in (log_space.relative_entropy, lambda p, q: log_space.target_margin(q, targets)):
        _, backward = jax.vjp(lambda q: function(p, q), q)  # noqa: B023
        kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == (4, 7)]
        assert all(any(leaf is given for given in (p, q)) or (leaf == p).all() or (leaf == q).all() for leaf in kept)
