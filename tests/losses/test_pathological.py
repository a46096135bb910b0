"""Batches at their worst, 500 of each kind: values are NumPy's, and value and gradient are finite, in both forms."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atkd_jax import losses

# Hypothesis repeats and shrinks; 25 batches in 20 examples are 500 cases.
BATCHES, TOKENS, VOCABULARY = 25, 6, 7
KINDS = (
    "saturated teacher",
    "excluded words",
    "logits of 1e4",
    "vocabulary of 1",
    "vocabulary of 2",
    "nothing counts",
    "one token",
    "equal uncertainty",
    "NaN under the mask",
)


def batches(kind, seed):
    """Returns student's and teacher's logits `[batches, tokens, vocab]`, targets and mask."""
    draw = np.random.default_rng(seed)
    vocabulary = {"vocabulary of 1": 1, "vocabulary of 2": 2}.get(kind, VOCABULARY)
    tokens = 1 if kind == "one token" else TOKENS
    shape = (BATCHES, tokens)
    student, teacher = (3 * draw.standard_normal((2, *shape, vocabulary))).astype(np.float32)
    targets = draw.integers(0, vocabulary, shape).astype(np.int32)
    mask = draw.uniform(size=shape) < (0 if kind == "nothing counts" else 0.7)
    at_target = np.arange(vocabulary) == targets[..., None]
    if kind == "saturated teacher":
        teacher = np.where(at_target & (draw.uniform(size=shape) < 0.7)[..., None], np.float32(200), teacher)
    elif kind == "excluded words":
        # Excluded by both, as a padded or a masked word is; the target never is.
        excluded = (draw.uniform(size=(*shape, vocabulary)) < 0.5) & ~at_target
        student, teacher = (np.where(excluded, np.float32(-np.inf), logits) for logits in (student, teacher))
    elif kind == "logits of 1e4":
        student, teacher = (draw.choice(np.float32([-1e4, 0, 1, 1e4]), x.shape) for x in (student, teacher))
    elif kind == "equal uncertainty":
        teacher = np.broadcast_to(np.where(at_target, 1.5, 0.0).astype(np.float32), teacher.shape)
    elif kind == "NaN under the mask":
        student, teacher = (np.where(mask[..., None], x, np.float32(np.nan)) for x in (student, teacher))
        targets = np.where(mask, targets, -100).astype(np.int32)
    return student, teacher, targets, mask


@cache
def compiled(form, direction):
    def of_logits(student, teacher, targets, mask):
        arrays = {"student_logits": student, "teacher_logits": teacher}
        return losses.atkd(**arrays, targets=targets, mask=mask, direction=direction)[0]

    def of_hidden_states(student, teacher, targets, mask):
        """Logits as hidden states, and a head that leaves them as they are."""
        head = jnp.eye(student.shape[-1])
        arrays = {"student_hidden": student, "student_head": head, "teacher_hidden": teacher, "teacher_head": head}
        return losses.linear_atkd(**arrays, targets=targets, mask=mask, direction=direction, block_words=3)[0]

    function = {"full": of_logits, "linear": of_hidden_states}[form]
    return jax.jit(jax.vmap(jax.value_and_grad(function)))


@pytest.mark.parametrize("form", ["full", "linear"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), direction=st.sampled_from(["forward", "reverse"]))
def test_atkd(oracle, kind, form, seed, direction):
    student, teacher, targets, mask = batches(kind, seed)
    if form == "linear" and kind == "excluded words":
        # A hidden state of -inf is no model's; a word's bias may be, which the linear forms' own tests have.
        student, teacher = (np.maximum(x, np.float32(-1e4)) for x in (student, teacher))
    values, gradients = compiled(form, direction)(student, teacher, targets, mask)
    assert np.isfinite(gradients).all()
    assert not np.asarray(gradients)[~mask].any()
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = [
            reference(oracle, *(array[number] for array in (student, teacher, targets, mask)), direction)
            for number in range(BATCHES)
        ]
    np.testing.assert_allclose(values, expected, rtol=3e-6, atol=1e-6)


def reference(oracle, student, teacher, targets, mask, direction):
    """Returns ATKD in float64; over logits, since probabilities of 1e-4000 are none even there."""
    student, teacher, targets = (array[mask] for array in (student, teacher, targets))
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    coins = [np.stack(margin_sides(x, targets), -1) for x in (first, second)]
    target_kd, diversity_kd = kl(*coins), kl(*(rest(x, targets) for x in (first, second)))
    log_probs = margin_sides(teacher, targets)[0]
    # Ranked as float32 ranks them, whose ties are ties.
    surprise = -log_probs.astype(np.float32)
    counted = np.sort(surprise)
    hard = surprise >= counted[(counted.size - 1) // 2] if counted.size else np.zeros(0, bool)
    on_hard = (target_kd + diversity_kd)[hard].mean() if hard.any() else 0
    return 0.2 * (diversity_kd[~hard].mean() if (~hard).any() else 0) + 0.8 * on_hard


def margin_sides(logits, targets):
    """Returns log p(target) and log(1 - p(target))."""
    others = log_sum(rest_logits(logits, targets))
    margin = np.take_along_axis(np.float64(logits), targets[:, None], -1)[:, 0] - others
    return -np.logaddexp(0, -margin), -np.logaddexp(0, margin)


def rest_logits(logits, targets):
    keep = np.arange(logits.shape[-1]) != targets[:, None]
    return np.float64(logits)[keep].reshape(len(logits), logits.shape[-1] - 1)


def rest(logits, targets):
    others = rest_logits(logits, targets)
    return others - log_sum(others)[:, None]


def log_sum(logits):
    return np.logaddexp.reduce(logits, axis=-1) if logits.shape[-1] else np.full(len(logits), -np.inf)


def kl(p_log_probs, q_log_probs):
    p = np.exp(p_log_probs)
    return np.where(p > 0, p * (p_log_probs - q_log_probs), 0).sum(-1)
