"""The functions of `log_space` from hidden states: the same values and gradients, block by block."""

import jax
import numpy as np
import pytest

from atkd_jax.losses import blocked, log_space
from atkd_jax.losses.vocabulary_blocks import Model, Plan


def random_model(seed, *, tokens=6, width=4, vocabulary=11):
    rng = np.random.default_rng(seed)
    hidden, head = rng.normal(size=(tokens, width)), rng.normal(size=(width, vocabulary))
    return Model(hidden.astype(np.float32), head.astype(np.float32), None)


def plan(models, *, softcaps=None):
    return Plan(11, 4, 4, 1.0, softcaps or (None,) * models, None)


def assert_same(mine, theirs, arguments):
    (value, gradient), (plain, plain_gradient) = (jax.jit(jax.value_and_grad(f))(*arguments) for f in (mine, theirs))
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_margin():
    model, targets = random_model(0), np.array([0, 10, 3, 4, 7, 8], np.int32)
    weights = np.linspace(-1, 1, 6, dtype=np.float32)
    assert_same(
        lambda model: (weights * blocked.blocked_margin(plan(1), model, targets)).sum(),
        lambda model: (weights * log_space.target_margin(model.hidden @ model.head, targets)).sum(),
        (model,),
    )


@pytest.mark.parametrize("student_first", [False, True])
def test_a_target_of_minus_one_leaves_no_word_out(student_first):
    student, teacher, targets = random_model(1), random_model(2), np.full(6, -1, np.int32)

    def whole(student):
        pair = (teacher.hidden @ teacher.head, student.hidden @ student.head)
        return log_space.relative_entropy(*(pair[::-1] if student_first else pair)).sum()

    assert_same(
        lambda student: blocked.blocked_terms(plan(2), student_first, student, teacher, targets)[0].sum(),
        whole,
        (student,),
    )


def test_the_teacher_is_constant():
    student, teacher, targets = random_model(1), random_model(2), np.zeros(6, np.int32)

    def margins(teacher):
        return blocked.blocked_terms(plan(2), False, student, teacher, targets)[2].sum()

    gradient = jax.grad(margins)(teacher)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_divergence_of_terms():
    def terms(p_log_probs, q_log_probs):
        return jax.numpy.exp(p_log_probs) * (p_log_probs - q_log_probs)

    student, teacher = random_model(3), random_model(4)
    assert_same(
        lambda student: blocked.blocked_divergence(plan(2), terms, student, teacher).sum(),
        lambda student: log_space.relative_entropy(teacher.hidden @ teacher.head, student.hidden @ student.head).sum(),
        (student,),
    )
