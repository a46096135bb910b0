"""The weights' gradient against autodiff of the loss as it is defined, on whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective

ROWS, LENGTH, VOCAB, TEACHER_WEIGHT = 5, 8, 9, 0.3


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(0), 3)
    starts, lengths = np.array([2, 0, 3, 1, 4])[:, None], np.array([4, 8, 1, 5, 0])[:, None]
    here = np.arange(LENGTH)[None]
    return {
        "student": 2.0 * jax.random.normal(keys[0], (ROWS, LENGTH, VOCAB)),
        "teacher": 2.0 * jax.random.normal(keys[1], (ROWS, LENGTH, VOCAB)),
        "targets": jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB),
        "mask": jnp.asarray((here >= starts) & (here < starts + lengths)),
    }


def log_probs(batch, who):
    return losses.target_log_prob(logits=batch[who], targets=batch["targets"])


def defined(student_logits, batch, name):
    """The mean of surrogate and single step, with everything but the student's logits held still."""
    mask = batch["mask"]
    student, teacher = log_probs(batch, "student"), log_probs(batch, "teacher")
    sampled = jnp.log(TEACHER_WEIGHT * jnp.exp(teacher) + (1 - TEACHER_WEIGHT) * jnp.exp(student))
    weights = jnp.exp(student - sampled)
    rewards, advantages = np.asarray(teacher - student), np.zeros(mask.shape)
    for row, t in np.argwhere(np.asarray(mask)):
        later = [i for i in range(t if name == "minillm_lmops" else t + 1, LENGTH) if mask[row, i]]
        gamma = 0.95 if name == "minillm_lmops" else 1.0
        if later:
            advantages[row, t] = sum(gamma ** (i - later[0]) * rewards[row, i] for i in later) / len(later)
    if name == "minillm_lmops":
        counted = advantages[np.asarray(mask)]
        advantages, weights = (advantages - counted.mean()) / counted.std(), jnp.ones_like(weights)
    now = losses.target_log_prob(logits=student_logits, targets=batch["targets"])
    ratio, gain = jnp.exp(now - sampled), jnp.asarray(advantages, jnp.float32)
    surrogate = jnp.maximum(-ratio * gain, -jnp.clip(ratio, 0.8, 1.2) * gain)
    single = weights * losses.reverse_kl(student_logits=student_logits, teacher_logits=batch["teacher"])
    counted = jnp.where(mask, surrogate + single, 0)
    tokens = int(np.sum(batch["mask"]))
    return jnp.sum(counted) / tokens, jnp.sum(jnp.where(mask, surrogate, 0)) / tokens


def weighting_of(config, batch, **changes):
    objective = make_objective(config, teacher_weight=TEACHER_WEIGHT)
    batch = batch | changes
    teacher, student = (jnp.where(batch["mask"], log_probs(batch, who), 0) for who in ("teacher", "student"))
    return objective, objective.weighting(teacher, batch["mask"], student)


def loss_of(objective, weighting, student_logits, batch):
    tokens = Tokens(batch["teacher"], batch["targets"], batch["mask"], weighting._replace(scalars={}))
    heads = Heads(jnp.eye(VOCAB), jnp.eye(VOCAB), VOCAB)
    return head_loss(objective, student_hidden=student_logits, heads=heads, tokens=tokens, chunk_tokens=16)


@pytest.mark.parametrize("name", ["minillm_paper", "minillm_lmops"])
def test_the_gradient_is_that_of_the_loss_as_it_is_defined(batch, name):
    objective, weighting = weighting_of(ObjectiveConfig(name=name), batch)
    gradient = jax.jit(jax.grad(lambda x: loss_of(objective, weighting, x, batch)[0]))(batch["student"])
    expected, surrogate = jax.grad(defined, has_aux=True)(batch["student"], batch, name)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert float(weighting.scalars["surrogate"]) == pytest.approx(float(surrogate), rel=1e-5)


def test_adaptive_is_the_gate_on_the_single_step(batch):
    plain = weighting_of(ObjectiveConfig(name="minillm_lmops"), batch)[1].loss
    adaptive = weighting_of(ObjectiveConfig(name="minillm_lmops", adaptive=True, easy_weight=0.3), batch)[1].loss
    np.testing.assert_array_equal(adaptive["cross_entropy"], plain["cross_entropy"])
    hard = losses.hard_token_mask(target_log_probs=log_probs(batch, "teacher"), mask=batch["mask"])
    gated = losses.atkd_token_weights(hard=hard, mask=batch["mask"], easy_weight=0.3)
    for name, expected in zip(("target_kd", "diversity_kd"), gated, strict=True):
        np.testing.assert_allclose(adaptive[name], expected, rtol=1e-6)


def test_what_does_not_count_has_no_influence(batch):
    config = ObjectiveConfig(name="minillm_paper")
    elsewhere = jnp.where(batch["mask"][..., None], batch["student"], 7.0 * batch["student"][::-1])
    for one, other in zip(
        jax.tree.leaves(weighting_of(config, batch)[1]),
        jax.tree.leaves(weighting_of(config, batch, student=elsewhere)[1]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_released_codes_rewards_are_doubled_and_cut_at_100(batch):
    """Whitening hides both from the gradient of a batch in which nothing is cut."""
    far = {"student": 30.0 * batch["student"]}
    found = weighting_of(ObjectiveConfig(name="minillm_lmops"), batch, **far)[1].scalars["reward_mean"]
    mask = np.asarray(batch["mask"])
    gaps = np.asarray(log_probs(batch, "teacher") - log_probs(batch | far, "student"), np.float64)[mask]
    assert (2 * gaps > 100).any()
    assert (2 * gaps < 100).any()
    assert float(found) == pytest.approx(np.clip(2 * gaps, -100, 100).mean(), rel=1e-5)
