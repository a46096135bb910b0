"""The comparison in one go against the functions that it stands for, edge by edge, and what it keeps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from atkd_jax.losses.log_space import relative_entropy, target_margin, without_target
from atkd_jax.losses.rest_divergence import RestTerms, rest_terms

SHAPE, TARGETS = (3, 4), np.array([[0, 1, 2, 3], [3, 3, 0, 1], [2, 0, 1, 2]], np.int32)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 1]], bool)


def random_logits(seed=0, vocabulary=5, dtype=np.float32):
    return (2 * np.random.default_rng(seed).normal(size=(2, *SHAPE, vocabulary))).astype(dtype)


def apart(p, q, targets=TARGETS):
    rests = without_target(p, targets), without_target(q, targets)
    return RestTerms(relative_entropy(*rests), target_margin(p, targets), target_margin(q, targets))


def weighted(function, *logits):
    weights = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32) * MASK
    return sum(jnp.sum(weight * term) for weight, term in zip(weights, function(*logits), strict=True))


def test_terms_and_gradients_are_those_of_the_functions_that_it_stands_for():
    logits = random_logits()
    together = partial(rest_terms, targets=TARGETS, mask=MASK)
    for mine, theirs in zip(together(*logits), apart(*logits), strict=True):
        np.testing.assert_allclose(np.asarray(mine)[MASK], np.asarray(theirs)[MASK], rtol=1e-6)
        assert not np.asarray(mine)[~MASK].any()
    gradients = (jax.grad(partial(weighted, function), (0, 1))(*logits) for function in (together, apart))
    for mine, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_derivatives_in_both_modes_of_both_orders():
    with jax.enable_x64(True):
        function = jax.jit(partial(rest_terms, targets=TARGETS, mask=MASK))
        check_grads(function, tuple(random_logits(2, dtype=np.float64)), order=2, modes=["fwd", "rev"], eps=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_does_not_count_has_no_influence(garbage):
    logits = random_logits(3)
    hidden = [np.where(MASK[..., None], each, np.float32(garbage)) for each in logits]
    function = jax.jit(jax.value_and_grad(partial(weighted, partial(rest_terms, targets=TARGETS, mask=MASK)), (0, 1)))
    plain, mine = function(*logits), function(*hidden)
    np.testing.assert_array_equal(mine[0], plain[0])
    for with_garbage, without in zip(mine[1], plain[1], strict=True):
        np.testing.assert_array_equal(with_garbage, without)


@pytest.mark.parametrize("vocabulary", [1, 2])
def test_a_rest_without_choice(vocabulary):
    logits, targets = random_logits(4, vocabulary), np.zeros(SHAPE, np.int32)
    divergence, p_margin, _ = rest_terms(*logits, targets, None)
    assert not np.asarray(divergence).any()
    assert np.isposinf(p_margin).all() == (vocabulary == 1)


def test_a_target_that_dwarfs_the_rest_keeps_its_digits_and_its_derivatives_of_both_orders():
    p = np.array([1e4, 0.0, 1.0, -1.0], np.float32)
    q = np.array([1e4, 0.5, -0.5, 0.0], np.float32)
    target = np.int32(0)
    divergence, p_margin, _ = rest_terms(p, q, target, None)
    np.testing.assert_allclose(divergence, relative_entropy(p[1:], q[1:]), rtol=1e-6)
    np.testing.assert_allclose(p_margin, 1e4 - np.logaddexp.reduce(np.float64(p[1:])), rtol=1e-7)
    for order in (jax.grad, lambda f, n: jax.jacfwd(jax.grad(f, n), n)):
        for argument in (0, 1):
            slopes = order(lambda *logits: sum(rest_terms(*logits, target, None)), argument)(p, q)
            assert np.isfinite(slopes).all()


def test_a_target_outside_of_the_vocabulary_is_nan_where_it_counts():
    targets = np.full(SHAPE, 5, np.int32)
    for term in rest_terms(*random_logits(), targets, MASK):
        np.testing.assert_array_equal(np.isnan(term), MASK)


def test_only_the_logits_are_kept_for_the_backward_pass():
    logits = random_logits(5)
    _, backward = jax.vjp(lambda *logits: rest_terms(*logits, TARGETS, MASK), *map(jnp.asarray, logits))
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == logits[0].shape]
    assert all(any((leaf == given).all() for given in logits) for leaf in kept)
