"""The primitive under the linear losses against the functions of whole logits: values and gradients, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses import blocked, log_space
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.vocabulary_blocks import Counted, Model, Plan

COUNTED = Counted(np.arange(6, dtype=np.int32), np.int32(6))
TARGETS = np.array([0, 10, 3, 4, 7, 8], np.int32)


def random_model(seed, *, tokens=6, width=4, vocabulary=11):
    rng = np.random.default_rng(seed)
    hidden, head = rng.normal(size=(tokens, width)), rng.normal(size=(width, vocabulary))
    return Model(hidden.astype(np.float32), head.astype(np.float32), None)


def plan(models):
    return Plan(11, 4, 4, 1.0, (None,) * models)


def assert_same(mine, theirs, arguments):
    (value, gradient), (plain, plain_gradient) = (jax.jit(jax.value_and_grad(f))(*arguments) for f in (mine, theirs))
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_margin():
    model, weights = random_model(0), np.linspace(-1, 1, 6, dtype=np.float32)

    def mine(model):
        found = blocked.blocked(plan(1), Question(), (model,), TARGETS, COUNTED)
        return (weights * found.student_margin).sum()

    assert_same(
        mine, lambda model: (weights * log_space.target_margin(model.hidden @ model.head, TARGETS)).sum(), (model,)
    )


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_a_target_of_minus_one_leaves_no_word_out(name):
    student, teacher, targets = random_model(1), random_model(2), np.full(6, -1, np.int32)

    def mine(student):
        question = Question(name, has_targets=False)
        return blocked.blocked(plan(2), question, (student, teacher), targets, COUNTED).divergence.sum()

    def whole(student):
        pair = (teacher.hidden @ teacher.head, student.hidden @ student.head)
        return log_space.relative_entropy(*(pair[::-1] if name == "reverse_kl" else pair)).sum()

    assert_same(mine, whole, (student,))


QUESTIONS = [
    Question(),
    Question(plain=True),
    Question("forward_kl", decoupled=True),
    Question("reverse_kl", decoupled=True, plain=True),
    Question("reverse_kl"),
    Question("generalized_jsd", beta=0.3, decoupled=True),
    Question("skewed_forward_kl", plain=True),
    Question("total_variation", has_targets=False),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.divergence}-{question.decoupled}")
def test_a_sum_with_known_weights_is_the_sum_of_what_is_found(question):
    """The gradient that is formed going forward is that which is formed going backward, by the weights too."""
    models = (random_model(3), random_model(4))[: 1 if question.divergence is None else 2]
    targets = TARGETS if question.has_targets else np.full(6, -1, np.int32)
    cut = Plan(11, 4, 4, 1.0 / 1.5 if question.plain else 1.0, (None, 3.0)[: len(models)])
    terms = jax.eval_shape(lambda: question.terms(blocked.blocked(cut, question, models, targets, COUNTED)))
    rng = np.random.default_rng(5)
    weights = {name: rng.uniform(size=6).astype(np.float32) for name in terms}

    def known(student, weights):
        return 3 * blocked.blocked_sum(cut, question, (student, *models[1:]), targets, COUNTED, weights)[0]

    def any_cotangents(student, weights):
        found = blocked.blocked(cut, question, (student, *models[1:]), targets, COUNTED)
        return 3 * question.weighted(found, weights)

    mine, theirs = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(models[0], weights) for f in (known, any_cotangents))
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_teacher_is_constant():
    student, teacher, targets = random_model(1), random_model(2), np.zeros(6, np.int32)

    def margins(teacher):
        question = Question("forward_kl", decoupled=True)
        return blocked.blocked(plan(2), question, (student, teacher), targets, COUNTED).teacher_margin.sum()

    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(jax.grad(margins)(teacher)))


def test_only_counted_tokens_take_turns():
    """The others' hidden states are never read, however many they are."""
    model = random_model(6)
    dirty = model._replace(hidden=jnp.asarray(model.hidden).at[jnp.array([1, 3, 4, 5])].set(jnp.nan))
    counted = Counted(np.array([2, 0, 1, 3, 4, 5], np.int32), np.int32(2))
    cut = Plan(11, 4, 2, 1.0, (None,))
    margins = blocked.blocked(cut, Question(), (dirty,), TARGETS, counted).student_margin
    expected = log_space.target_margin(model.hidden @ model.head, TARGETS)
    np.testing.assert_allclose(margins[jnp.array([0, 2])], expected[jnp.array([0, 2])], rtol=1e-5)
    assert not np.isnan(margins).any()
