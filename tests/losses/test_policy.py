"""The policy gradient on a toy whose texts can all be written down: three words, three tokens, word 0 ends a text."""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from atkd_jax import losses

TEXTS = np.array(list(itertools.product(range(3), repeat=3)))
# Which of the 13 beginnings, the empty one first, each token of each text follows.
BEGINNINGS = np.stack([np.zeros(27, int), 1 + TEXTS[:, 0], 4 + 3 * TEXTS[:, 0] + TEXTS[:, 1]], axis=1)
COUNTED = np.cumprod(np.pad(TEXTS[:, :-1] != 0, ((0, 0), (1, 0)), constant_values=True), axis=1).astype(bool)
CASES = {"seed": st.integers(0, 10**6), "teacher_weight": st.sampled_from([0.0, 0.2, 0.7])}


def tables(seed):
    """Returns the logits after each beginning, [13, 3], of a student and of a teacher."""
    return np.random.default_rng(seed).normal(size=(2, 13, 3)) * 1.5


def of_texts(table):
    """Returns log-probabilities of the tokens of all texts, [27, 3], and of whole texts as they are drawn, [27]."""
    log_probs = jax.nn.log_softmax(table)[BEGINNINGS]
    log_probs = jnp.take_along_axis(log_probs, TEXTS[..., None], axis=-1)[..., 0]
    return log_probs, jnp.sum(log_probs, axis=-1)


def exact_reverse_kl(table, teacher_table):
    """Returns KL(student || teacher) of whole texts, by its definition."""
    (student, of_text), (teacher, _) = of_texts(table), of_texts(teacher_table)
    return jnp.sum(jnp.exp(of_text) * jnp.sum(jnp.where(COUNTED, student - teacher, 0), axis=-1))


def facts_of_texts(table, teacher_table, teacher_weight):
    """Returns everything that is known of the texts once they are drawn."""
    student, teacher = of_texts(table)[0], of_texts(teacher_table)[0]
    sampled = losses.mixed_log_probs(
        student_log_probs=student, teacher_log_probs=teacher, teacher_weight=teacher_weight
    )
    pair = {"student_log_probs": student, "mask": COUNTED}
    weights = losses.importance_weights(**pair, sampled_log_probs=sampled, cumulative=True)
    return SimpleNamespace(
        teacher_logits=teacher_table[BEGINNINGS],
        student=student,
        probabilities=jnp.exp(jnp.sum(sampled, axis=-1)),
        rewards=losses.reverse_kl_rewards(**pair, teacher_log_probs=teacher),
        # Up to each token, and of whole texts.
        weights=weights,
        text_weights=jnp.take_along_axis(weights, COUNTED.sum(axis=-1, keepdims=True) - 1, axis=-1),
    )


def on_average(facts, per_token):
    return jnp.sum(facts.probabilities * jnp.sum(per_token, axis=-1))


def surrogate(table, facts, first_reward):
    returns = losses.discounted_returns(rewards=facts.rewards, mask=COUNTED, first_reward=first_reward)
    return losses.clipped_surrogate(
        student_log_probs=of_texts(table)[0],
        sampled_log_probs=facts.student,
        weights=jnp.broadcast_to(facts.text_weights, COUNTED.shape),
        advantages=returns,
        mask=COUNTED,
        clip=None,
    )


def single_step(table, facts):
    return losses.single_step_reverse_kl(
        student_logits=table[BEGINNINGS], teacher_logits=facts.teacher_logits, mask=COUNTED, weights=facts.weights
    )


@partial(jax.jit, static_argnames="teacher_weight")
def gradients(table, teacher_table, *, teacher_weight):
    """Returns the exact gradient, the policy gradient's expectation, and that of its two parts' sum."""
    facts = facts_of_texts(table, teacher_table, teacher_weight)
    return (
        jax.grad(exact_reverse_kl)(table, teacher_table),
        jax.grad(lambda table: on_average(facts, surrogate(table, facts, "own")))(table),
        jax.grad(lambda table: on_average(facts, single_step(table, facts) + surrogate(table, facts, "next")))(table),
    )


@given(**CASES)
def test_the_policy_gradient_is_on_average_that_of_the_exact_kl_of_texts(seed, teacher_weight):
    with jax.enable_x64(True):
        exact, policy, decomposed = gradients(*tables(seed), teacher_weight=teacher_weight)
    assert np.abs(exact).max() > 1e-3
    np.testing.assert_allclose(policy, exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(decomposed, exact, rtol=1e-9, atol=1e-12)


def test_the_exact_gradient_of_the_toy_is_that_of_finite_differences():
    with jax.enable_x64(True):
        table, teacher_table = map(jnp.asarray, tables(0))
        check_grads(lambda table: exact_reverse_kl(table, teacher_table), (table,), order=1, modes=["rev"])


@given(**CASES)
def test_weights_average_to_one_under_the_mixture(seed, teacher_weight):
    with jax.enable_x64(True):
        table, teacher_table = tables(seed)
        facts = facts_of_texts(table, teacher_table, teacher_weight)
        np.testing.assert_allclose(facts.probabilities.sum(), 1, rtol=1e-12)
        np.testing.assert_allclose((facts.probabilities * facts.text_weights[:, 0]).sum(), 1, rtol=1e-12)
        student, teacher = (jax.nn.log_softmax(table) for table in (table, teacher_table))
        sampled = losses.mixed_log_probs(
            student_log_probs=student, teacher_log_probs=teacher, teacher_weight=teacher_weight
        )
        everywhere = np.ones(student.shape, bool)
        weights = losses.importance_weights(student_log_probs=student, sampled_log_probs=sampled, mask=everywhere)
        np.testing.assert_allclose((jnp.exp(sampled) * weights).sum(axis=-1), np.ones(13), rtol=1e-12)


@pytest.mark.parametrize("precise", [False, True])
def test_weights_of_three_words(precise):
    with jax.enable_x64(precise):
        student, teacher = (jnp.log(jnp.array(row)) for row in ([0.2, 0.5, 0.05], [0.4, 0.1, 0.6]))
        sampled = losses.mixed_log_probs(student_log_probs=student, teacher_log_probs=teacher, teacher_weight=0.2)
        weights = losses.importance_weights(student_log_probs=student, sampled_log_probs=sampled, mask=np.ones(3, bool))
        assert weights.dtype == (jnp.float64 if precise else jnp.float32)
        np.testing.assert_allclose(weights, [0.833333, 1.190476, 0.3125], atol=5e-7)
        np.testing.assert_allclose(weights, [5 / 6, 25 / 21, 5 / 16], rtol=1e-14 if precise else 5e-7)


@pytest.mark.parametrize("teacher_weight", [0.0, 0.3, 1.0])
def test_a_mixture_of_excluded_words(teacher_weight):
    student = np.log(np.array([0.5, 0.5, 0.0, 0.0], np.float32), where=[1, 1, 0, 0], out=np.full(4, -np.inf, "f4"))
    teacher = student[[0, 2, 1, 3]]
    mixture = teacher_weight * np.exp(teacher) + (1 - teacher_weight) * np.exp(student)

    def mixed(student, teacher):
        return losses.mixed_log_probs(
            student_log_probs=student, teacher_log_probs=teacher, teacher_weight=teacher_weight
        )

    np.testing.assert_allclose(np.exp(mixed(student, teacher)), mixture, rtol=1e-6)
    gradients = jax.jit(jax.grad(lambda *pair: jnp.exp(mixed(*pair)).sum(), argnums=(0, 1)))(student, teacher)
    expected = (1 - teacher_weight) * np.exp(student), teacher_weight * np.exp(teacher)
    np.testing.assert_allclose(gradients, expected, rtol=1e-6)


def surrogate_case(seed=0):
    rng = np.random.default_rng(seed)
    student, sampled = np.log(rng.uniform(0.1, 0.9, size=(2, 4, 9)))
    mask = rng.uniform(size=(4, 9)) < 0.7
    return SimpleNamespace(
        student=student,
        sampled=sampled,
        advantages=rng.normal(size=(4, 9)),
        weights=rng.uniform(size=(4, 9)),
        mask=mask,
    )


def clipped(case, student, **options):
    return losses.clipped_surrogate(
        student_log_probs=student,
        sampled_log_probs=case.sampled,
        advantages=case.advantages,
        mask=case.mask,
        **options,
    )


def test_the_clipped_surrogate_is_ppo_s():
    case = surrogate_case()
    with jax.enable_x64(True):
        value = clipped(case, case.student, weights=case.weights)
        gradient = jax.grad(lambda student: clipped(case, student, weights=case.weights).sum())(case.student)
    ratio = case.weights * np.exp(case.student - case.sampled)
    gains = ratio * case.advantages, np.clip(ratio, 0.8, 1.2) * case.advantages
    np.testing.assert_allclose(value, np.where(case.mask, -np.minimum(*gains), 0), rtol=1e-12)
    pushes = case.mask & ~((ratio > 1.2) & (case.advantages > 0) | (ratio < 0.8) & (case.advantages < 0))
    assert 0 < pushes.sum() < case.mask.sum()
    np.testing.assert_allclose(gradient, np.where(pushes, -gains[0], 0), rtol=1e-12)


@pytest.mark.parametrize("clip", [None, 1e9])
def test_without_a_clip_it_is_the_plain_policy_gradient(clip):
    case = surrogate_case(1)
    with jax.enable_x64(True):
        value = clipped(case, case.student, clip=clip)
        expected = np.where(case.mask, -np.exp(case.student - case.sampled) * case.advantages, 0)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        check_grads(lambda student: clipped(case, student, clip=clip), (case.student,), order=1, modes=["fwd", "rev"])


def test_what_does_not_count_may_be_nan():
    case = surrogate_case(2)

    def all_of(arrays):
        mixture = losses.importance_weights(
            student_log_probs=arrays[0], sampled_log_probs=arrays[1], mask=case.mask, cumulative=True
        )
        surrogate = losses.clipped_surrogate(
            student_log_probs=arrays[0],
            sampled_log_probs=arrays[1],
            advantages=arrays[2],
            weights=arrays[3],
            mask=case.mask,
        )
        single = losses.single_step_reverse_kl(
            student_logits=arrays[4], teacher_logits=arrays[4][:, ::-1], mask=case.mask & case.mask[:, ::-1]
        )
        return mixture.sum() + surrogate.sum() + single.sum()

    def arrays(filler):
        fill = np.where(case.mask, 0, filler).astype(np.float32)
        logits = np.random.default_rng(3).normal(size=(4, 9, 5)).astype(np.float32) + fill[..., None]
        flat = [case.student, case.sampled, case.advantages, case.weights]
        return [(array + fill).astype(np.float32) for array in flat] + [logits]

    value_and_gradient = jax.jit(jax.value_and_grad(all_of))
    clean, dirty = value_and_gradient(arrays(0.0)), value_and_gradient(arrays(np.nan))
    assert np.isfinite(clean[0])
    for one, other in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_single_step_is_the_weighted_reverse_kl(oracle):
    rng = np.random.default_rng(4)
    student, teacher = 2 * rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
    mask, weights = rng.uniform(size=(3, 5)) < 0.6, rng.uniform(size=(3, 5)).astype(np.float32)
    value = losses.single_step_reverse_kl(
        student_logits=student, teacher_logits=teacher, mask=mask, weights=weights, temperature=2.0
    )
    expected = weights * oracle.divergence("reverse_kl", student / 2, teacher / 2)
    np.testing.assert_allclose(value, np.where(mask, expected, 0), rtol=1e-5, atol=1e-6)


ROW = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("function", "change", "error", "sentence"),
    [
        ("mixed_log_probs", {"teacher_weight": 1.5}, ValueError, "teacher_weight must be between 0 and 1, got 1.5"),
        (
            "mixed_log_probs",
            {"teacher_log_probs": ROW[:2]},
            ValueError,
            "student_log_probs and teacher_log_probs must",
        ),
        (
            "mixed_log_probs",
            {"teacher_log_probs": np.zeros(3, int)},
            TypeError,
            "teacher_log_probs must be of float",
        ),
        ("importance_weights", {"mask": ROW}, TypeError, "mask must be of boolean type, got float32"),
        (
            "importance_weights",
            {"mask": np.ones(2, bool)},
            ValueError,
            "student_log_probs must have one number",
        ),
        ("clipped_surrogate", {"clip": -0.1}, ValueError, "clip must not be negative, got -0.1"),
        ("clipped_surrogate", {"weights": ROW[:2]}, ValueError, "student_log_probs and weights must have the same"),
    ],
)
def test_errors(function, change, error, sentence):
    arguments = {
        "mixed_log_probs": {"student_log_probs": ROW, "teacher_log_probs": ROW},
        "importance_weights": {"student_log_probs": ROW, "sampled_log_probs": ROW, "mask": ROW == 0},
        "clipped_surrogate": dict.fromkeys(("student_log_probs", "sampled_log_probs", "advantages"), ROW)
        | {"mask": ROW == 0},
    }[function]
    with pytest.raises(error, match=f"^{function}: {sentence}"):
        getattr(losses, function)(**arguments | change)
