"""AdaKD's weights against the values of its curves, and against sums written out in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax import losses

DISTANCES = [-0.2, -0.1, 0.0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("steepness", "expected"),
    [
        (15.0, [0.8000, 0.6235, 0.3679, 0.1204, 0.0113]),
        (-10.0, [0.0660, 0.1923, 0.3679, 0.5452, 0.6922]),
    ],
)
def test_the_curves_values(steepness, expected):
    losses_of_examples = jnp.array(DISTANCES) + 2.0
    weights = losses.instance_weights(teacher_task_loss=losses_of_examples, threshold=2.0, steepness=steepness)
    np.testing.assert_allclose(weights, expected, atol=5e-5)


@pytest.mark.parametrize("steepness", [1e4, 15.0, 0.0, -10.0, -1e4])
def test_extreme_losses_have_finite_weights(steepness):
    extreme = jnp.array([0.0, 1e-30, 1e30, jnp.inf])
    weights = np.asarray(losses.instance_weights(teacher_task_loss=extreme, threshold=3.0, steepness=steepness))
    assert np.isfinite(weights).all()
    assert ((weights >= 0) & (weights <= 1)).all()
    np.testing.assert_array_equal(np.sort(weights), weights if steepness <= 0 else weights[::-1])


@given(seed=st.integers(0, 10**6))
def test_a_weight_depends_on_its_own_example_alone(seed):
    rng = np.random.default_rng(seed)
    some = rng.gamma(2.0, size=5).astype(np.float32)
    other = some.copy()
    other[1:] = rng.gamma(2.0, size=4)
    weights = [losses.instance_weights(teacher_task_loss=x, threshold=2.0, steepness=7.0) for x in (some, other)]
    assert weights[0][0] == weights[1][0]


def test_weights_carry_no_gradient():
    def loss(values):
        task, kd, threshold, steepness = values
        weights = losses.instance_weights(teacher_task_loss=task, threshold=threshold[0], steepness=steepness[0])
        return jnp.sum(losses.instance_weighted(kd_loss=kd, task_loss=2.0 * kd, weights=weights))

    values = jnp.array([[1.0, 3.0], [0.5, 0.7], [2.0, 0.0], [1.5, 0.0]])
    gradient = jax.grad(loss)(values)
    alpha = np.exp(-np.exp(1.5 * (np.array([1.0, 3.0]) - 2.0) / 2))
    np.testing.assert_array_equal(gradient[jnp.array([0, 2, 3])], 0)
    np.testing.assert_allclose(gradient[1], alpha + 2 * (1 - alpha), rtol=1e-6)


def test_a_loss_without_a_share_is_silent():
    broken, whole, all_or_nothing = jnp.array([jnp.nan, 2.0]), jnp.array([3.0, jnp.inf]), jnp.array([0.0, 1.0])

    def loss(kd, task):
        return jnp.sum(losses.instance_weighted(kd_loss=kd, task_loss=task, weights=all_or_nothing))

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(broken, whole)
    assert value == 5.0
    np.testing.assert_array_equal(gradients, [[0, 1], [1, 0]])


def test_steepness_runs_linearly_to_the_last_step():
    found = [float(losses.instance_steepness(step=s, steps=11, start=15.0, end=-10.0)) for s in (0, 4, 10, 12)]
    np.testing.assert_allclose(found, [15, 5, -10, -10], rtol=1e-6)
    assert float(losses.instance_steepness(step=0, steps=1, start=15.0, end=-10.0)) == 15.0


@given(seed=st.integers(0, 10**6), precise=st.booleans())
def test_the_means_of_packed_examples(seed, precise):
    rng = np.random.default_rng(seed)
    shape = (2, 3, 9)
    segments = np.sort(rng.integers(0, 4, shape), axis=-1)
    mask = rng.random(shape) < 0.6
    values = np.where(mask, rng.normal(size=shape), np.nan)
    expected = np.zeros(shape)
    for place in np.ndindex(*shape):
        own = mask[place[:-1]] & (segments[place[:-1]] == segments[place])
        expected[place] = values[place[:-1]][own].mean() if own.any() else 0
    with jax.enable_x64(precise):
        found = losses.example_means(values=jnp.asarray(values), mask=mask, segment_ids=segments)
        shares = losses.example_shares(mask=mask, segment_ids=segments)
    np.testing.assert_allclose(found, expected, rtol=1e-12 if precise else 1e-5, atol=1e-14 if precise else 1e-6)
    one_each = [expected[place] for place in _firsts_of_examples(mask, segments)]
    total = np.sum(np.asarray(shares) * np.where(mask, values, 0))
    np.testing.assert_allclose(total, np.sum(one_each), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shares.sum(), len(one_each), rtol=1e-6)


def _firsts_of_examples(mask, segments):
    """The place of the first counted token of every example that has one."""
    seen = {(*place[:-1], segments[place]): place for place in reversed(list(np.ndindex(*mask.shape))) if mask[place]}
    return list(seen.values())


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="instance_weights: teacher_task_loss must be of floating type, got int32"):
        losses.instance_weights(teacher_task_loss=jnp.array([1]), threshold=0.0, steepness=1.0)
    two, three = jnp.ones(2), jnp.ones(3)
    with pytest.raises(ValueError, match=r"average each loss within its example first"):
        losses.instance_weighted(kd_loss=two, task_loss=two, weights=three)
    with pytest.raises(ValueError, match=r"shape \[..., T\], got \(2,\) and \(3,\)"):
        losses.example_means(values=two, mask=two > 0, segment_ids=jnp.array([1, 1, 2]))
    with pytest.raises(TypeError, match="segment_ids must be of integer type"):
        losses.example_means(values=two, mask=two > 0, segment_ids=two)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        losses.instance_steepness(step=0, steps=0, start=1.0, end=-1.0)
