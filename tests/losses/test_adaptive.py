"""Adaptive KL, UNC^gamma and decoupled divergences against NumPy float64."""

from functools import partial

import jax
import numpy as np
import pytest

from atkd_jax import losses

NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")


def random_case(seed=0, shape=(3, 4), vocabulary=9):
    rng = np.random.default_rng(seed)
    student, teacher = (2 * rng.normal(size=(2, *shape, vocabulary))).astype(np.float32)
    return {"student_logits": student, "teacher_logits": teacher}, rng.integers(0, vocabulary, shape).astype(np.int32)


def adaptive_in_numpy(oracle, student, teacher, head_mass):
    """Returns adaptive KL by sorting each token's words in turn."""
    p, q = oracle.softmax(teacher), oracle.softmax(student)
    values = np.empty(p.shape[:-1])
    for index in np.ndindex(values.shape):
        order = np.argsort(-p[index], kind="stable")
        head = (np.cumsum(p[index][order]) <= head_mass) | (head_mass == 1)
        head[0] = True
        errors = np.abs(p[index] - q[index])[order]
        share = errors[head].sum() / errors.sum()
        values[index] = share * oracle.kl(p[index], q[index]) + (1 - share) * oracle.kl(q[index], p[index])
    return values


@pytest.mark.parametrize("head_mass", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_adaptive_kl_agrees_with_numpy(oracle, head_mass, temperature):
    logits, _ = random_case()
    got = losses.adaptive_kl(**logits, head_mass=head_mass, temperature=temperature)
    scaled = [logits[name] / temperature for name in ("student_logits", "teacher_logits")]
    np.testing.assert_allclose(got, adaptive_in_numpy(oracle, *scaled, head_mass), rtol=1e-5)


def test_the_weights_of_adaptive_kl_are_constants_of_the_gradient(oracle):
    logits, _ = random_case(1)
    student, teacher = logits["student_logits"], logits["teacher_logits"]
    forward, reverse = losses.forward_kl(**logits), losses.reverse_kl(**logits)
    share = (losses.adaptive_kl(**logits) - reverse) / (forward - reverse)

    def parts(student):
        arrays = {"student_logits": student, "teacher_logits": teacher}
        return (share * losses.forward_kl(**arrays) + (1 - share) * losses.reverse_kl(**arrays)).sum()

    mine = jax.grad(lambda student: losses.adaptive_kl(student_logits=student, teacher_logits=teacher).sum())(student)
    np.testing.assert_allclose(mine, jax.grad(parts)(student), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 9])
def test_adaptive_kl_of_equals_is_zero_and_has_a_finite_gradient(vocabulary):
    logits, _ = random_case(2, (4,), vocabulary)
    logits["student_logits"] = logits["teacher_logits"]
    teacher = logits["teacher_logits"]

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(student):
        return losses.adaptive_kl(student_logits=student, teacher_logits=teacher).sum()

    value, gradient = value_and_gradient(logits["student_logits"])
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_powers_of_uncertainty_agree_with_numpy(oracle, gamma):
    logits, targets = random_case(3)
    tkd, dkd = oracle.decoupled(logits["student_logits"], logits["teacher_logits"], targets)
    uncertainty = 1 - oracle.target(oracle.softmax(logits["teacher_logits"]), targets)
    got = losses.uncertainty_weighted_kl(**logits, targets=targets, gamma=gamma)
    np.testing.assert_allclose(got, tkd + uncertainty**gamma * dkd, rtol=1e-5)


def test_a_power_of_one_is_kl_and_the_power_may_be_traced():
    logits, targets = random_case(4)
    weighted = jax.jit(lambda gamma: losses.uncertainty_weighted_kl(**logits, targets=targets, gamma=gamma))
    np.testing.assert_allclose(weighted(1.0), losses.forward_kl(**logits), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_a_one_hot_teacher_has_a_finite_gradient(gamma):
    student, teacher = np.array([0.5, 1.0, -2.0], np.float32), np.array([0.0, -np.inf, -np.inf], np.float32)
    function = partial(losses.uncertainty_weighted_kl, targets=np.int32(0), gamma=gamma)
    gradients = jax.jit(jax.grad(lambda s, t: function(student_logits=s, teacher_logits=t), (0, 1)))(student, teacher)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.3, 0.0, 1.0])
def test_decoupled_divergences_agree_with_numpy(oracle, name, share):
    logits, targets = random_case(5)
    terms = losses.decoupled_divergence(**logits, targets=targets, divergence=name, beta=share, alpha=share)
    q, p = (oracle.softmax(logits[key]) for key in ("student_logits", "teacher_logits"))
    coins = [np.stack([oracle.target(x, targets), 1 - oracle.target(x, targets)], -1) for x in (q, p)]
    rests = [oracle.rest(x, targets) for x in (q, p)]
    if name == "generalized_jsd" and share in (0, 1):
        name = "forward_kl" if share == 0 else "reverse_kl"
    for mine, pair in zip(terms, (coins, rests), strict=False):
        expected = oracle.divergence(name, *np.log(pair), share=share)
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=3e-7)
    plain = losses.decoupled_terms(**logits, targets=targets)
    for mine, theirs in zip(terms[2:], plain[2:], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("vocabulary", [1, 2, 5])
def test_decoupled_divergences_have_finite_gradients_at_the_edges(vocabulary):
    student = np.linspace(1e4, -1e4, vocabulary, dtype=np.float32)[None].repeat(2, 0)
    teacher = student[:, ::-1].copy()
    teacher[1, 1:] = -np.inf
    targets = np.zeros(2, np.int32)

    def total(name, student, teacher):
        arrays = {"student_logits": student, "teacher_logits": teacher, "targets": targets}
        terms = losses.decoupled_divergence(**arrays, divergence=name)
        return terms.target_kd.sum() + terms.diversity_kd.sum()

    @jax.jit
    def gradients(student, teacher):
        return {name: jax.grad(partial(total, name), (0, 1))(student, teacher) for name in NAMES}

    for name, of_both in gradients(student, teacher).items():
        assert all(np.isfinite(gradient).all() for gradient in of_both), name


class TestErrors:
    logits, targets = random_case()

    def test_numbers(self):
        with pytest.raises(TypeError, match="adaptive_kl: head_mass must be a Python number, got str; it decides"):
            losses.adaptive_kl(**self.logits, head_mass="half")
        with pytest.raises(ValueError, match=r"uncertainty_weighted_kl: gamma must not be negative, got -1\.0"):
            losses.uncertainty_weighted_kl(**self.logits, targets=self.targets, gamma=-1)

    def test_divergence(self):
        with pytest.raises(ValueError, match=r"divergence must be 'forward_kl' or .*, got 'cross_entropy'; choose one"):
            losses.decoupled_divergence(**self.logits, targets=self.targets, divergence="cross_entropy")
