"""TKD and DKD against NumPy float64: the identity with KL, the closed-form gradient, the worst inputs."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from atkd_jax import losses

DIRECTIONS = ("forward", "reverse")
VOCABULARIES = st.sampled_from([1, 2, 7])


def uncompiled(student, teacher, targets, direction="forward", temperature=1.0):
    return losses.decoupled_terms(
        student_logits=student, teacher_logits=teacher, targets=targets, direction=direction, temperature=temperature
    )


ours = jax.jit(uncompiled, static_argnames=("direction", "temperature"))


@partial(jax.jit, static_argnames="direction")
def gradients(student, teacher, targets, weights, direction="forward"):
    """Returns the gradients of sum(w_T TKD + w_D DKD) by both models' logits."""

    def weighted(student, teacher):
        terms = uncompiled(student, teacher, targets, direction)
        return jnp.sum(weights[0] * terms.target_kd + weights[1] * terms.diversity_kd)

    return jax.grad(weighted, argnums=(0, 1))(student, teacher)


def cases(rows, elements):
    """Returns pairs of logits `[rows, vocab]` and targets."""
    return VOCABULARIES.flatmap(
        lambda size: st.tuples(
            hnp.arrays(np.float32, (2, rows, size), elements=elements),
            hnp.arrays(np.int32, rows, elements=st.integers(0, size - 1)),
        )
    )


def random_case(seed=0, shape=(3, 4, 9), dtype=np.float32):
    rng = np.random.default_rng(seed)
    student, teacher = (2 * rng.normal(size=(2, *shape))).astype(dtype)
    return student, teacher, rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_values_agree_with_numpy(oracle, direction, temperature):
    student, teacher, targets = random_case()
    got = ours(student, teacher, targets, direction, temperature)
    student, teacher = student / temperature, teacher / temperature
    tkd, dkd = oracle.decoupled(student, teacher, targets, direction)
    p, q = (oracle.target(oracle.softmax(x), targets) for x in (teacher, student))
    expected = losses.DecoupledTerms(tkd, dkd, np.log(p), np.log(1 - p), np.log(q))
    for field, mine, theirs in zip(got._fields, got, expected, strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, rtol=3e-6, atol=2e-7, err_msg=field)


def test_named_functions_are_the_fields():
    student, teacher, targets = random_case()
    for direction in DIRECTIONS:
        terms = ours(student, teacher, targets, direction)
        arguments = {"student_logits": student, "teacher_logits": teacher, "targets": targets, "direction": direction}
        np.testing.assert_allclose(losses.target_kd(**arguments), terms.target_kd, rtol=1e-6)
        np.testing.assert_allclose(losses.diversity_kd(**arguments), terms.diversity_kd, rtol=1e-6)


@pytest.mark.parametrize("precise", [True, False])
def test_golden_case(golden, precise):
    with jax.enable_x64(precise):
        dtype = np.float64 if precise else np.float32
        student, teacher = golden.student_logits.astype(dtype), golden.teacher_logits.astype(dtype)
        terms = ours(student, teacher, golden.targets)
        means = [np.asarray(x)[golden.mask].mean() for x in (terms.target_kd, terms.diversity_kd)]
    np.testing.assert_allclose(means, [0.4688837957, 0.6821445429], atol=1e-10 if precise else 1e-6, rtol=0)


@given(cases(10, st.floats(-20, 20, width=32)))
def test_parts_make_up_kl(case):
    (student, teacher), targets = case
    for direction in DIRECTIONS:
        terms = ours(student, teacher, targets, direction)
        first = terms.teacher_target_log_prob if direction == "forward" else terms.student_target_log_prob
        remainder = -np.expm1(np.asarray(first, np.float64))
        divergence = losses.forward_kl if direction == "forward" else losses.reverse_kl
        kl = divergence(student_logits=student, teacher_logits=teacher)
        assert (np.asarray(terms.target_kd) >= 0).all()
        assert (np.asarray(terms.diversity_kd) >= 0).all()
        np.testing.assert_allclose(terms.target_kd + remainder * terms.diversity_kd, kl, rtol=1e-5, atol=1e-6)


@given(cases(10, st.floats(-20, 20, width=32)), st.floats(-40, 40, width=32))
def test_a_constant_added_to_logits_changes_nothing(case, shift):
    (student, teacher), targets = case
    shifted = ours(student + np.float32(shift), teacher - np.float32(shift), targets)
    for mine, theirs in zip(shifted, ours(student, teacher, targets), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_forward_gradient_is_the_closed_form(oracle):
    student, teacher, targets = random_case(1)
    rng = np.random.default_rng(2)
    weights = rng.uniform(size=(2, *targets.shape)).astype(np.float32)
    p, q = oracle.softmax(teacher), oracle.softmax(student)
    one_hot = np.eye(9)[targets]
    excess = (weights[0] * (oracle.target(q, targets) - oracle.target(p, targets)))[..., None]
    others = [x * (1 - one_hot) / (1 - oracle.target(x, targets)[..., None]) for x in (p, q)]
    expected = excess * one_hot - excess * others[1] + weights[1][..., None] * (others[1] - others[0])
    by_student, _ = gradients(student, teacher, targets, weights)
    np.testing.assert_allclose(by_student, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_of_every_field_by_both_models(direction):
    with jax.enable_x64(True):
        student, teacher, targets = random_case(3, (2, 5), np.float64)
        function = lambda student, teacher: ours(student, teacher, targets, direction)  # noqa: E731
        check_grads(function, (student, teacher), order=2, modes=["fwd", "rev"], eps=1e-5)


def test_a_saturated_teacher_keeps_the_digits_of_its_gradient():
    """Both models give the target a probability of 1 to machine precision; the pull between them is still exact."""
    student, teacher = (np.array([margin, 0.0, 0.0], np.float32) for margin in (25.0, 30.0))
    by_student, by_teacher = gradients(student, teacher, np.int32(0), np.array([1.0, 0.0], np.float32))
    with np.errstate(over="raise"):
        left = [2 / (2 + np.exp(np.float64(margin))) for margin in (25.0, 30.0)]
    np.testing.assert_allclose(by_student[0], left[1] - left[0], rtol=1e-5)
    np.testing.assert_allclose(by_teacher[0], left[1] * (1 - left[1]) * (30.0 - 25.0), rtol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("vocabulary", [1, 2])
def test_small_vocabularies_leave_no_diversity(direction, vocabulary):
    student, teacher, _ = random_case(4, (3, vocabulary))
    targets = np.zeros(3, np.int32)
    terms = ours(student, teacher, targets, direction)
    np.testing.assert_array_equal(terms.diversity_kd, np.zeros(3))
    if vocabulary == 1:
        np.testing.assert_array_equal(terms.target_kd, np.zeros(3))
        np.testing.assert_array_equal(terms.teacher_log_uncertainty, np.full(3, -np.inf))
    weights = np.ones((2, 3), np.float32)
    assert all(np.isfinite(gradient).all() for gradient in gradients(student, teacher, targets, weights, direction))


def test_a_one_hot_teacher_has_no_diversity_and_a_finite_gradient():
    student, teacher = np.array([0.5, 1.0, -2.0], np.float32), np.array([0.0, -np.inf, -np.inf], np.float32)
    terms = ours(student, teacher, np.int32(0))
    assert terms.diversity_kd == 0
    np.testing.assert_allclose(terms.target_kd, -terms.student_target_log_prob, rtol=1e-6)
    by_student, _ = gradients(student, teacher, np.int32(0), np.array([1.0, 0.0], np.float32))
    q = np.exp(student) / np.exp(student).sum()
    np.testing.assert_allclose(by_student, q - np.array([1, 0, 0]), atol=1e-6)
    by_student, _ = gradients(student, teacher, np.int32(0), np.array([0.0, 1.0], np.float32))
    np.testing.assert_array_equal(by_student, np.zeros(3))


@settings(max_examples=20)
@given(
    case=cases(25, st.sampled_from([-np.inf, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4])),
    direction=st.sampled_from(DIRECTIONS),
)
def test_gradients_are_finite_at_pathological_logits(case, direction):
    (student, teacher), targets = case
    student, teacher = (np.where(np.isneginf(x).all(-1, keepdims=True), np.float32(0), x) for x in (student, teacher))
    terms = ours(student, teacher, targets, direction)
    assert not any(np.isnan(term).any() for term in terms)
    weights = np.ones((2, 25), np.float32)
    assert all(np.isfinite(gradient).all() for gradient in gradients(student, teacher, targets, weights, direction))


def test_bfloat16_costs_no_more_than_its_rounding(oracle):
    student, teacher, targets = random_case(5, (8, 500))
    student, teacher = jnp.asarray(student, jnp.bfloat16), jnp.asarray(teacher, jnp.bfloat16)
    terms = ours(student, teacher, targets)
    expected = oracle.decoupled(np.asarray(student, np.float64), np.asarray(teacher, np.float64), targets)
    for mine, theirs in zip(terms, expected, strict=False):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, rtol=3e-6)
    assert gradients(student, teacher, targets, np.ones((2, 8), np.float32))[0].dtype == jnp.bfloat16


def test_transformations_compose():
    student, teacher, targets = random_case(6, (4, 7))
    plain = uncompiled(student, teacher, targets)
    mapped = jax.vmap(uncompiled)(student, teacher, targets)
    saved = jax.jit(jax.checkpoint(uncompiled))(student, teacher, targets)
    _, scanned = jax.lax.scan(lambda carry, case: (carry, uncompiled(*case)), None, (student, teacher, targets))
    for other in (mapped, saved, scanned):
        for mine, theirs in zip(other, plain, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_an_unknown_direction_is_an_error():
    student, teacher, targets = random_case()
    with pytest.raises(ValueError, match="decoupled_terms: direction must be 'forward' or 'reverse', got 'both'"):
        uncompiled(student, teacher, targets, "both")
