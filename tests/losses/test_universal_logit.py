import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atkd_jax import losses


def sorted_difference(student, teacher, temperature=1.0):
    """By the definition, in float64: each list sorted downwards, the shorter one filled with zeros."""
    lists = []
    for logits in (student, teacher):
        scaled = np.asarray(logits, np.float64) / temperature
        exponentials = np.exp(scaled - scaled.max())
        lists.append(sorted((exponentials / exponentials.sum()).tolist(), reverse=True))
    longest = max(map(len, lists))
    one, other = ([*each, *[0.0] * (longest - len(each))] for each in lists)
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("words", "teacher_words"), [(5, 9), (9, 5), (7, 7), (1, 3)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_sum_by_the_definition(words, teacher_words, temperature):
    rng = np.random.default_rng(words)
    student, teacher = 3 * rng.normal(size=(4, words)), 3 * rng.normal(size=(4, teacher_words))
    found = losses.universal_logit(
        student_logits=jnp.asarray(student, jnp.float32),
        teacher_logits=jnp.asarray(teacher, jnp.float32),
        temperature=temperature,
    )
    expected = [sorted_difference(*pair, temperature) for pair in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("teacher_words", [4, 8])
def test_the_gradient_is_the_slope(teacher_words):
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=6), 2 * rng.normal(size=teacher_words)
    arrays = {"teacher_logits": jnp.asarray(teacher, jnp.float32), "temperature": 1.5}
    gradient = jax.grad(lambda logits: losses.universal_logit(student_logits=logits, **arrays))(
        jnp.asarray(student, jnp.float32)
    )
    step = 1e-6
    slopes = [
        sorted_difference(student + step * unit, teacher, 1.5) - sorted_difference(student - step * unit, teacher, 1.5)
        for unit in np.eye(6)
    ]
    np.testing.assert_allclose(gradient, np.asarray(slopes) / (2 * step), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), st.permutations(range(5)))
def test_which_word_is_which_plays_no_part(logits, order):
    student = jnp.asarray(logits, jnp.float32)
    renamed = student[jnp.asarray(order)]
    with_a_word_that_cannot_occur = jnp.append(renamed, -jnp.inf)
    for teacher in (renamed, with_a_word_that_cannot_occur):
        assert float(losses.universal_logit(student_logits=student, teacher_logits=teacher)) < 1e-6


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([1e4, -1e4, 0.0], [0.0, 0.0], 1.0),
        ([0.0, -np.inf, -np.inf], [0.0, 0.0, 0.0, 0.0], 1.5),
        ([-np.inf, -np.inf], [0.0, 0.0], 1.0),
    ],
)
def test_extremes_have_finite_values_and_gradients(student, teacher, expected):
    value, gradient = jax.value_and_grad(
        lambda logits: losses.universal_logit(student_logits=logits, teacher_logits=jnp.asarray(teacher, jnp.float32))
    )(jnp.asarray(student, jnp.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_positions_must_be_paired():
    with pytest.raises(ValueError, match=r"must have the same positions, got .2, 5. and .3, 5.; only the vocabulary"):
        losses.universal_logit(student_logits=jnp.zeros((2, 5)), teacher_logits=jnp.zeros((3, 5)))
