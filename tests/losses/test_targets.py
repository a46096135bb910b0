"""log p(target), UNC and cross-entropy against NumPy float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from atkd_jax import losses


def random_case(seed=0, shape=(3, 4, 9), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (3 * rng.normal(size=shape)).astype(dtype), rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_agree_with_numpy(oracle, temperature):
    logits, targets = random_case()
    p = oracle.target(oracle.softmax(logits / temperature), targets)
    log_prob = losses.target_log_prob(logits=logits, targets=targets, temperature=temperature)
    uncertainty = losses.teacher_uncertainty(teacher_logits=logits, targets=targets, temperature=temperature)
    cross_entropy = losses.cross_entropy(student_logits=logits, targets=targets, temperature=temperature)
    np.testing.assert_allclose(log_prob, np.log(p), rtol=2e-6)
    np.testing.assert_allclose(uncertainty, 1 - p, rtol=2e-6)
    np.testing.assert_allclose(cross_entropy, -np.log(p), rtol=2e-6)
    assert log_prob.dtype == uncertainty.dtype == cross_entropy.dtype == jnp.float32


def test_a_saturated_teacher_keeps_its_digits():
    """p(target) is 1 to machine precision, and is still ranked: 1 - p would be 0 for all of these."""
    logits = np.stack([np.linspace(20, 80, 13), np.zeros(13)], -1).astype(np.float32)
    targets = np.zeros(13, np.int32)
    expected = 1 / (1 + np.exp(np.float64(logits[:, 0])))
    log_prob = np.asarray(losses.target_log_prob(logits=logits, targets=targets))
    np.testing.assert_allclose(-log_prob, expected, rtol=1e-6)
    assert (np.diff(log_prob) > 0).all()
    uncertainty = losses.teacher_uncertainty(teacher_logits=logits, targets=targets)
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-6)


def test_gradients_are_the_closed_forms_of_the_docstrings(oracle):
    logits, targets = random_case(1)
    p = oracle.softmax(logits / 1.3)
    one_hot = np.eye(9)[targets]
    target = oracle.target(p, targets)[..., None]
    gradients = [
        jax.jit(jax.grad(lambda x, function=function: function(x).sum()))(logits)
        for function in (
            lambda x: losses.target_log_prob(logits=x, targets=targets, temperature=1.3),
            lambda x: losses.teacher_uncertainty(teacher_logits=x, targets=targets, temperature=1.3),
            lambda x: losses.cross_entropy(student_logits=x, targets=targets, temperature=1.3),
        )
    ]
    for gradient, expected in zip(gradients, (one_hot - p, target * (p - one_hot), p - one_hot), strict=True):
        np.testing.assert_allclose(gradient, expected / 1.3, rtol=1e-5, atol=1e-6)


def test_derivatives_of_both_modes_and_two_orders():
    with jax.enable_x64(True):
        logits, targets = random_case(2, (2, 5), np.float64)
        function = jax.jit(lambda x: losses.cross_entropy(student_logits=x, targets=targets))
        check_grads(function, (logits,), order=2, modes=["fwd", "rev"], eps=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 5])
@pytest.mark.parametrize("size", [1e4, np.inf])
def test_extreme_logits(vocabulary, size):
    logits = np.full((3, vocabulary), -size, np.float32)
    logits[:, 0] = 0.0
    targets = np.array([0, vocabulary - 1, vocabulary // 2], np.int32)
    function = jax.jit(lambda x: losses.target_log_prob(logits=x, targets=targets))
    expected = np.where(targets == 0, 0.0, -size)
    np.testing.assert_array_equal(function(logits), expected)
    gradient = jax.jit(jax.grad(lambda x: losses.cross_entropy(student_logits=x, targets=targets).sum()))(logits)
    assert np.isfinite(gradient).all()
    # Cross-entropy pulls the target up even where its probability is 0.
    np.testing.assert_allclose(gradient[1], np.eye(vocabulary)[0] - np.eye(vocabulary)[targets[1]], atol=1e-6)


@pytest.mark.parametrize("target", [-100, -1, 9])
def test_a_target_outside_of_the_vocabulary_is_not_taken_for_another_token(target):
    logits, _ = random_case(3, (9,))
    assert np.isnan(losses.cross_entropy(student_logits=logits, targets=np.int32(target)))


def test_bfloat16_costs_no_more_than_its_rounding(oracle):
    logits, targets = random_case(4, (8, 500))
    rounded = jnp.asarray(logits, jnp.bfloat16)
    expected = -np.log(oracle.target(oracle.softmax(np.asarray(rounded, np.float64)), targets))
    got = losses.cross_entropy(student_logits=rounded, targets=targets)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_targets_of_any_integer_type_and_vmap():
    logits, targets = random_case(5, (4, 7))
    plain = losses.target_log_prob(logits=logits, targets=targets)
    for dtype in (np.uint8, np.int8, np.uint32):
        np.testing.assert_array_equal(losses.target_log_prob(logits=logits, targets=targets.astype(dtype)), plain)
    mapped = jax.vmap(lambda x, y: losses.target_log_prob(logits=x, targets=y))(logits, targets)
    np.testing.assert_allclose(mapped, plain, rtol=1e-6)


class TestErrors:
    function = staticmethod(partial(losses.cross_entropy, student_logits=np.zeros((2, 3, 5), np.float32)))

    def test_shape(self):
        with pytest.raises(
            ValueError,
            match=r"cross_entropy: targets must have one token id for every position, shape \(2, 3\), got \(2, 4\); "
            r"logits at t are paired with the token at t \+ 1, so slice both by one",
        ):
            self.function(targets=np.zeros((2, 4), np.int32))

    def test_type(self):
        with pytest.raises(TypeError, match="cross_entropy: targets must be of integer type, got float32; pass"):
            self.function(targets=np.zeros((2, 3), np.float32))

    def test_who_is_named(self):
        with pytest.raises(TypeError, match="teacher_uncertainty: teacher_logits must be of floating type"):
            losses.teacher_uncertainty(teacher_logits=np.zeros(3, np.int32), targets=np.int32(0))
        with pytest.raises(TypeError, match="target_log_prob: logits must be of floating type"):
            losses.target_log_prob(logits=np.zeros(3, np.int32), targets=np.int32(0))
