"""AdaKD around the objectives: against per-example sums in NumPy, and cut into micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective
from atkd_jax.objectives.weighting import Weighting

ROWS, LENGTH, VOCAB, STEPS = 4, 10, 7, 11
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [0], [1] * 10, [1] * 2 + [2] * 3 + [3] * 5, [1] * 3 + [0] * 7], np.int32)
WEIGHTING = {"k_start": 15.0, "k_end": -10.0, "threshold": 2.0}


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(5), 4)
    return {
        "student_logits": 2.0 * jax.random.normal(keys[0], (ROWS, LENGTH, VOCAB)),
        "teacher_logits": jax.random.normal(keys[1], (ROWS, LENGTH, VOCAB)),
        "targets": jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB),
        "mask": jax.random.bernoulli(keys[3], 0.7, (ROWS, LENGTH)) & (SEGMENTS > 0),
    }


def weighting_of(config, batch, *, step, parts=1):
    objective = make_objective(config, steps=STEPS)
    cut = {name: array.reshape(parts, -1, *array.shape[1:]) for name, array in batch.items()}
    log_probs = losses.target_log_prob(logits=cut["teacher_logits"], targets=cut["targets"])
    about = {"segment_ids": jnp.asarray(SEGMENTS).reshape(parts, -1, LENGTH), "step": jnp.int32(step)}
    return objective, cut, objective.weighting(log_probs, cut["mask"], **(about if objective.needs_examples else {}))


def value_and_gradient(config, batch, *, step=0, parts=1):
    objective, cut, weighting = weighting_of(config, batch, step=step, parts=parts)

    @jax.jit
    @jax.value_and_grad
    def loss(student_logits):
        total = jnp.zeros(())
        heads = Heads(jnp.eye(VOCAB), jnp.eye(VOCAB), VOCAB)
        for part in range(parts):
            one = Weighting(*jax.tree.map(lambda each, part=part: each[part], tuple(weighting._replace(scalars={}))))
            tokens = Tokens(cut["teacher_logits"][part], cut["targets"][part], cut["mask"][part], one)
            total += head_loss(
                objective, student_hidden=student_logits[part], heads=heads, tokens=tokens, chunk_tokens=16
            )[0]
        return total

    value, gradient = loss(cut["student_logits"])
    return float(value), np.asarray(gradient).reshape(ROWS, LENGTH, VOCAB)


def examples_of(batch):
    """Every example as the places of its counted tokens."""
    mask = np.asarray(batch["mask"])
    pairs = sorted({(row, number) for row, number in zip(*np.nonzero(SEGMENTS), strict=True)})
    numbers = sorted({(row, SEGMENTS[row, place]) for row, place in pairs})
    found = [(row, np.nonzero((SEGMENTS[row] == number) & mask[row])[0]) for row, number in numbers]
    return [(row, places) for row, places in found if places.size]


@pytest.mark.parametrize("averaging", ["tokens", "examples"])
def test_forward_kl_is_the_papers_sum_over_examples(batch, averaging):
    logits = {name: batch[name] for name in ("student_logits", "teacher_logits")}
    kd = np.asarray(losses.forward_kl(**logits), np.float64)
    task = np.asarray(losses.cross_entropy(student_logits=batch["student_logits"], targets=batch["targets"]))
    teacher = -np.asarray(losses.target_log_prob(logits=batch["teacher_logits"], targets=batch["targets"]))
    steepness = 15.0 - 25.0 * 4 / 10
    totals, means, weights = [], [], []
    for row, places in examples_of(batch):
        x = teacher[row, places].astype(np.float64).mean()
        alpha = np.exp(-np.exp(steepness * (x - 2.0) / 2))
        own = alpha * kd[row, places] + (1 - alpha) * task[row, places]
        totals.append(own.sum())
        means.append(own.mean())
        weights.append(alpha)
    expected = np.mean(means) if averaging == "examples" else np.sum(totals) / np.asarray(batch["mask"]).sum()
    config = ObjectiveConfig(name="forward_kl", instance_weighting=WEIGHTING | {"averaging": averaging})
    value, _ = value_and_gradient(config, batch, step=4)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    scalars = weighting_of(config, batch, step=4)[2].scalars
    np.testing.assert_allclose(scalars["instance_weight_mean"], np.mean(weights), rtol=1e-5)
    np.testing.assert_allclose(scalars["instance_weight_above_half"], np.mean(np.array(weights) > 0.5), rtol=1e-6)
    np.testing.assert_allclose(scalars["instance_steepness"], steepness, rtol=1e-6)


@pytest.mark.parametrize("averaging", ["tokens", "examples"])
def test_micro_batches_change_nothing(batch, averaging):
    config = ObjectiveConfig(easy_weight=0.3, instance_weighting=WEIGHTING | {"averaging": averaging})
    whole = value_and_gradient(config, batch, step=2)
    parted = value_and_gradient(config, batch, step=2, parts=2)
    np.testing.assert_allclose(parted[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(parted[1], whole[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("averaging", ["tokens", "examples"])
def test_padding_and_what_stands_in_it_change_no_weight(batch, averaging):
    config = ObjectiveConfig(instance_weighting=WEIGHTING | {"averaging": averaging})
    objective = make_objective(config, steps=STEPS)
    log_probs = losses.target_log_prob(logits=batch["teacher_logits"], targets=batch["targets"])
    mask, step = batch["mask"], jnp.int32(3)
    plain = objective.weighting(log_probs, mask, segment_ids=jnp.asarray(SEGMENTS), step=step)
    padded = objective.weighting(
        jnp.pad(jnp.where(mask, log_probs, jnp.nan), ((0, 1), (0, 5)), constant_values=jnp.nan),
        jnp.pad(mask, ((0, 1), (0, 5))),
        segment_ids=jnp.pad(jnp.asarray(SEGMENTS), ((0, 1), (0, 5))),
        step=step,
    )
    for name, weights in plain.loss.items():
        np.testing.assert_allclose(padded.loss[name][:ROWS, :LENGTH], weights, rtol=1e-6, atol=1e-9)
        assert not np.asarray(padded.loss[name][ROWS:]).any()
        assert not np.asarray(padded.loss[name][:, LENGTH:]).any()
    for name in ("instance_weight_mean", "instance_weight_above_half", "teacher_task_loss"):
        np.testing.assert_allclose(padded.scalars[name], plain.scalars[name], rtol=1e-6)


def test_with_atkd_a_weight_per_example_stands_over_the_gate(batch):
    """Far below the threshold every example is distilled, far above it none is."""
    plain = value_and_gradient(ObjectiveConfig(), batch)
    task = value_and_gradient(ObjectiveConfig(name="cross_entropy"), batch)
    for threshold, expected in ((1e6, plain), (-1e6, task)):
        config = ObjectiveConfig(instance_weighting=WEIGHTING | {"threshold": threshold})
        value, gradient = value_and_gradient(config, batch)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-8)
    gate = weighting_of(ObjectiveConfig(), batch, step=0)[2]
    config = ObjectiveConfig(instance_weighting=WEIGHTING)
    weighted = weighting_of(config, batch, step=0)[2]
    teacher = -np.asarray(losses.target_log_prob(logits=batch["teacher_logits"], targets=batch["targets"]))
    for row, places in examples_of(batch):
        alpha = np.exp(-np.exp(15.0 * (teacher[row, places].mean(dtype=np.float64) - 2.0) / 2))
        for term in ("target_kd", "diversity_kd"):
            # An alpha of exp(-exp(k x)) multiplies the rounding of x.
            np.testing.assert_allclose(
                weighted.loss[term][0, row, places], alpha * gate.loss[term][0, row, places], rtol=1e-4, atol=1e-9
            )
    assert set(gate.scalars) < set(weighted.scalars)


def test_a_threshold_that_is_not_known_is_refused(batch):
    unknown = {"k_start": 1.0, "k_end": -1.0}
    with pytest.raises(ValueError, match="measure the teacher's mean loss first"):
        weighting_of(ObjectiveConfig(instance_weighting=unknown), batch, step=0)
