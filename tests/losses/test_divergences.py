"""Per-token divergences against sums in NumPy float64, their bounds, their gradients and their worst inputs."""

from functools import cache, partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from atkd_jax import losses

SHARES = {"generalized_jsd": "beta", "skewed_forward_kl": "alpha", "skewed_reverse_kl": "alpha"}
NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")
BOUNDED = ("generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")

# Few shapes, many rows: every shape is a compilation.
VOCABULARIES = st.sampled_from([1, 2, 7])
logit_pairs = VOCABULARIES.flatmap(
    lambda vocabulary: hnp.arrays(np.float32, (2, 10, vocabulary), elements=st.floats(-20, 20, width=32))
)
# Hypothesis shrinks and repeats; 25 rows in 20 examples are 500 cases.
hard_logits = st.sampled_from([-np.inf, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4])
hard_logit_pairs = VOCABULARIES.flatmap(
    lambda vocabulary: hnp.arrays(np.float32, (2, 25, vocabulary), elements=hard_logits)
)


def uncompiled(name, student, teacher, *, share=None, temperature=1.0):
    extra = {SHARES[name]: share} if name in SHARES and share is not None else {}
    function = getattr(losses, name)
    return function(student_logits=student, teacher_logits=teacher, temperature=temperature, **extra)


# Compiled as a whole, since one compilation is faster than that of every operation.
ours = jax.jit(uncompiled, static_argnames=("name", "share", "temperature"))


@cache
def gradients_of(name):
    return jax.jit(jax.grad(lambda student, teacher: ours(name, student, teacher).sum(), argnums=(0, 1)))


def default_share(name):
    return {"generalized_jsd": 0.5, "skewed_forward_kl": 0.1, "skewed_reverse_kl": 0.1}.get(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_values_agree_with_numpy(oracle, name, share, temperature):
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.normal(size=(2, 2, 5, 17)).astype(np.float32)
    share = share if name in SHARES else None
    expected = oracle.divergence(name, student / temperature, teacher / temperature, share=share)
    got = ours(name, student, teacher, share=share, temperature=temperature)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_float64_inputs_give_float64(oracle, name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        student, teacher = 3 * rng.normal(size=(2, 4, 11))
        got = ours(name, student, teacher)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(
            got, oracle.divergence(name, student, teacher, share=default_share(name)), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("forward_kl", 1.0606740247), ("reverse_kl", 1.0629954297), ("total_variation", 0.5574832926)],
)
@pytest.mark.parametrize("precise", [True, False])
def test_golden_case(golden, name, expected, precise):
    with jax.enable_x64(precise):
        dtype = np.float64 if precise else np.float32
        values = ours(name, golden.student_logits.astype(dtype), golden.teacher_logits.astype(dtype))
        mean = np.asarray(values)[golden.mask].mean()
    np.testing.assert_allclose(mean, expected, atol=1e-10 if precise else 1e-6, rtol=0)


@given(logit_pairs, st.sampled_from(NAMES))
def test_divergences_are_never_negative_and_bounded(pair, name):
    values = np.asarray(ours(name, *pair))
    assert (values >= 0).all()
    bound = {"generalized_jsd": np.log(2), "total_variation": 1.0}.get(
        name, -np.log(0.1) if "skewed" in name else np.inf
    )
    assert (values <= bound * (1 + 1e-6)).all()


@given(logit_pairs, st.sampled_from(NAMES))
def test_divergence_of_equals_is_zero(pair, name):
    np.testing.assert_allclose(ours(name, pair[0], pair[0]), 0, atol=5e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("vocabulary", [2, 7])
def test_divergence_of_unequals_is_not_zero(name, vocabulary):
    teacher = np.zeros((50, vocabulary), np.float32)
    student = teacher.copy()
    student[:, 0] = np.linspace(0.1, 5, 50)
    assert (np.asarray(ours(name, student, teacher)) > 1e-5).all()


@given(logit_pairs, st.floats(-50, 50, width=32), st.floats(-50, 50, width=32), st.sampled_from(NAMES))
def test_a_constant_added_to_logits_changes_nothing(pair, student_shift, teacher_shift, name):
    student, teacher = pair
    shifted = ours(name, student + np.float32(student_shift), teacher + np.float32(teacher_shift))
    # Adding the constant rounds the logits themselves, at worst by half a unit in the last place of 70.
    np.testing.assert_allclose(shifted, ours(name, student, teacher), rtol=1e-4, atol=1e-4)


def test_ends_of_the_mixtures():
    student, teacher = np.random.default_rng(6).normal(size=(2, 4, 9)).astype(np.float32)
    forward, reverse = ours("forward_kl", student, teacher), ours("reverse_kl", student, teacher)
    np.testing.assert_array_equal(ours("generalized_jsd", student, teacher, share=0.0), forward)
    np.testing.assert_array_equal(ours("generalized_jsd", student, teacher, share=1), reverse)
    np.testing.assert_array_equal(ours("skewed_forward_kl", student, teacher, share=0.0), forward)
    np.testing.assert_array_equal(ours("skewed_reverse_kl", student, teacher, share=0.0), reverse)
    np.testing.assert_array_equal(ours("skewed_forward_kl", student, teacher, share=1.0), np.zeros_like(forward))


@pytest.mark.parametrize(("name", "share"), [(name, 0.3 if name in SHARES else None) for name in NAMES])
def test_gradients_of_both_models_in_both_modes(name, share):
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        student, teacher = 2 * rng.normal(size=(2, 3, 6))
        function = partial(ours, name, share=share)
        if name == "total_variation":
            check_grads(function, (student, teacher), order=1, modes=["fwd", "rev"], eps=1e-6)
        else:
            check_grads(function, (student, teacher), order=2, modes=["fwd", "rev"], eps=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_closed_forms_of_the_docstrings(oracle, name):
    rng = np.random.default_rng(3)
    student, teacher = 2 * rng.normal(size=(2, 4, 8)).astype(np.float32)
    temperature, share = 1.7, {"generalized_jsd": 0.3}.get(name, 0.1)
    p, q = oracle.softmax(teacher / temperature), oracle.softmax(student / temperature)
    mean = partial(np.sum, axis=-1, keepdims=True)
    if name == "forward_kl":
        expected = q - p
    elif name == "reverse_kl":
        expected = q * (np.log(q / p) - mean(q * np.log(q / p)))
    elif name == "generalized_jsd":
        gap = np.log(q / (share * p + (1 - share) * q))
        expected = (1 - share) * q * (gap - mean(q * gap))
    elif name == "total_variation":
        sign = np.sign(q - p)
        expected = q * (sign - mean(q * sign)) / 2
    elif name == "skewed_forward_kl":
        ratio = (1 - share) * p / (share * p + (1 - share) * q)
        expected = q * (mean(q * ratio) - ratio)
    else:
        mixture = share * q + (1 - share) * p
        slope = np.log(q / mixture) - share * q / mixture
        expected = q * (slope - mean(q * slope))

    @jax.jit
    @jax.grad
    def gradient(student):
        return uncompiled(name, student, teacher, share=share, temperature=temperature).sum()

    np.testing.assert_allclose(gradient(student), expected / temperature, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("vocabulary", [1, 2, 5])
def test_extreme_logits_leave_values_and_gradients_finite(oracle, name, vocabulary):
    # -1e4 and 1e4, and -inf where both models exclude the same token.
    student = np.linspace(1e4, -1e4, vocabulary, dtype=np.float32)[None].repeat(3, 0)
    teacher = student[:, ::-1].copy()
    teacher[1] = student[1]
    if vocabulary > 2:
        student[2, 1] = teacher[2, 1] = -np.inf
    gradients = gradients_of(name)(student, teacher)
    assert np.isfinite(ours(name, student, teacher)).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if name in BOUNDED:
        expected = oracle.divergence(name, student, teacher, share=default_share(name))
        np.testing.assert_allclose(ours(name, student, teacher), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("excluding", ["student", "teacher"])
def test_a_token_that_one_model_excludes(oracle, name, excluding):
    logits = {"student": np.array([0.3, -1.0, 2.0], np.float32), "teacher": np.array([1.0, 0.5, 0.0], np.float32)}
    logits[excluding][1] = -np.inf
    gradients = gradients_of(name)(logits["student"], logits["teacher"])
    value = ours(name, logits["student"], logits["teacher"])
    expected = oracle.divergence(name, logits["student"], logits["teacher"], share=default_share(name))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if name == "forward_kl":
        difference = oracle.softmax(logits["student"]) - oracle.softmax(logits["teacher"])
        np.testing.assert_allclose(gradients[0], difference, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_teacher(name):
    student, teacher = np.array([0.5, 1.0, -2.0], np.float32), np.array([-np.inf, 0.0, -np.inf], np.float32)
    assert np.isfinite(gradients_of(name)(student, teacher)[0]).all()


@settings(max_examples=20)
@pytest.mark.parametrize("name", NAMES)
@given(pair=hard_logit_pairs)
def test_pathological_logits_agree_with_numpy(oracle, name, pair):
    student, teacher = np.where(np.isneginf(pair).all(-1, keepdims=True), np.float32(0), pair)
    gradients = gradients_of(name)(student, teacher)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    expected = oracle.divergence(name, student, teacher, share=default_share(name))
    # float32 knows no probability below 1e-45, so that an excluded token may be missed that NumPy sees.
    seen = np.isfinite(expected)
    np.testing.assert_allclose(np.asarray(ours(name, student, teacher))[seen], expected[seen], rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_costs_no_more_than_its_rounding(name):
    """Against float64 of the numbers before they are rounded; ours adds float32's own rounding, and its result's."""
    exact = 3 * np.random.default_rng(4).normal(size=(2, 8, 500))
    rounded = jnp.asarray(exact, jnp.bfloat16)
    got, got_gradient = ours(name, *rounded), gradients_of(name)(*rounded)[0]
    assert got.dtype == jnp.float32
    assert got_gradient.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        inputs = exact, np.asarray(rounded, np.float64)
        (value, after_rounding), (gradient, gradient_after) = (
            [np.asarray(function(*pair)) for pair in inputs]
            for function in (lambda *pair: ours(name, *pair), lambda *pair: gradients_of(name)(*pair)[0])
        )

    def error(x, of):
        return np.linalg.norm(np.asarray(x, np.float64) - of) / np.linalg.norm(of)

    assert error(got, value) <= error(after_rounding, value) + 2e-6
    assert error(got_gradient, gradient) <= error(gradient_after, gradient) + 2.0**-8
    np.testing.assert_allclose(got, after_rounding, rtol=2e-6)


def test_models_of_different_types_are_compared_in_the_wider_one():
    student, teacher = jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.float32)
    assert losses.forward_kl(student_logits=student, teacher_logits=teacher).dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_jit_and_vmap_agree(name):
    rng = np.random.default_rng(5)
    student, teacher = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
    plain = uncompiled(name, student, teacher)
    np.testing.assert_allclose(ours(name, student, teacher), plain, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(partial(ours, name))(student, teacher), plain, rtol=1e-6)
    np.testing.assert_allclose(ours(name, student[1, 2], teacher[1, 2]), plain[1, 2], rtol=1e-6)


def test_the_temperature_may_be_traced():
    student, teacher = np.array([1.0, 0.0], np.float32), np.array([0.0, 2.0], np.float32)
    slope = jax.jit(jax.grad(lambda temperature: uncompiled("forward_kl", student, teacher, temperature=temperature)))
    step = 1e-2
    values = [ours("forward_kl", student, teacher, temperature=2 + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(slope(2.0), (values[0] - values[1]) / (2 * step), rtol=1e-3)


def test_a_fixed_teacher_costs_no_derivative_of_it():
    """The teacher's slope, which needs log p of both models, appears only when it is asked for."""
    student, teacher = jnp.zeros((2, 3)), jnp.zeros((2, 3))
    function = lambda student, teacher: losses.forward_kl(student_logits=student, teacher_logits=teacher).sum()  # noqa: E731
    student_only = str(jax.make_jaxpr(jax.grad(function))(student, teacher))
    both = str(jax.make_jaxpr(jax.grad(function, argnums=(0, 1)))(student, teacher))
    assert student_only.count("exp ") < both.count("exp ")


class TestErrors:
    def test_vocabularies_of_different_size(self):
        with pytest.raises(
            ValueError,
            match=r"forward_kl: student_logits and teacher_logits must have the same shape \[\.\.\., vocab\], got "
            r"\(2, 5\) and \(2, 6\); cut both heads to the tokenizer's size",
        ):
            uncompiled("forward_kl", np.zeros((2, 5), np.float32), np.zeros((2, 6), np.float32))

    def test_token_ids_in_place_of_logits(self):
        with pytest.raises(
            TypeError, match="reverse_kl: student_logits must be of floating type, got int32; pass logits"
        ):
            uncompiled("reverse_kl", np.zeros((2, 5), np.int32), np.zeros((2, 5), np.float32))

    def test_no_vocabulary(self):
        with pytest.raises(ValueError, match=r"must have shape \[\.\.\., vocab\], got \(\); keep the vocabulary axis"):
            uncompiled("total_variation", np.float32(0), np.float32(0))

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match="forward_kl: temperature must be positive and finite, got "):
            uncompiled("forward_kl", np.zeros(2, np.float32), np.zeros(2, np.float32), temperature=temperature)

    def test_share_out_of_range(self):
        with pytest.raises(ValueError, match=r"generalized_jsd: beta must be between 0 and 1, got 1\.5"):
            uncompiled("generalized_jsd", np.zeros(2, np.float32), np.zeros(2, np.float32), share=1.5)

    def test_traced_share(self):
        compiled = jax.jit(lambda share: uncompiled("skewed_forward_kl", jnp.zeros(2), jnp.zeros(2), share=share))
        with pytest.raises(TypeError, match=r"skewed_forward_kl: alpha must be a Python number, got .*static argument"):
            compiled(0.5)

    def test_arrays_are_passed_by_keyword(self):
        with pytest.raises(TypeError, match="positional"):
            losses.forward_kl(np.zeros(2, np.float32), np.zeros(2, np.float32))
