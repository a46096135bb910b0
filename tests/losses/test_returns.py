"""Rewards, returns and whitening against sums written out in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax import losses

REWARDS = [[0.5, -1.0, 0.25, 0.8], [1.0, 0.4, 0.0, 0.0]]
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize(
    ("discount", "expected"),
    [
        (0.95, [[0.11538124, -0.01350002, 0.505, 0.8], [0.69, 0.4, 0, 0]]),
        (1.0, [[0.1375, 0.01666665, 0.525, 0.8], [0.7, 0.4, 0, 0]]),
    ],
)
def test_returns_of_the_released_code(discount, expected, precise):
    with jax.enable_x64(precise):
        rewards = jnp.array(REWARDS)
        returns = losses.discounted_returns(
            rewards=rewards, mask=MASK, discount=discount, first_reward="own", normalizer="remaining"
        )
    assert returns.dtype == (np.float64 if precise else np.float32)
    # The expected numbers were written down from float32.
    np.testing.assert_allclose(returns, expected, atol=3e-8, rtol=1e-7)


def summed(rewards, mask, discount, first_reward, normalizer):
    returns = np.zeros_like(rewards)
    for row, t in np.argwhere(mask):
        begin = t if first_reward == "own" else t + 1
        places = [i for i in range(begin, rewards.shape[1]) if mask[row, i]]
        total = sum(discount ** (i - begin) * rewards[row, i] for i in places)
        returns[row, t] = total / max(len(places), 1) if normalizer == "remaining" else total
    return returns


@given(
    seed=st.integers(0, 10**6),
    discount=st.sampled_from([0.0, 0.95, 1.0]),
    first_reward=st.sampled_from(["own", "next"]),
    normalizer=st.sampled_from(["none", "remaining"]),
)
def test_returns_are_the_sums_of_the_docstring(seed, discount, first_reward, normalizer):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(3, 6))
    starts, lengths = rng.integers(0, 4, size=(2, 3))
    places = np.arange(6) - starts[:, None]
    mask = (places >= 0) & (places < lengths[:, None])
    options = {"discount": discount, "first_reward": first_reward, "normalizer": normalizer}
    with jax.enable_x64(True):
        returns = losses.discounted_returns(rewards=np.where(mask, rewards, np.nan), mask=mask, **options)
    np.testing.assert_allclose(returns, summed(rewards, mask, **options), rtol=1e-12, atol=1e-14)


def test_any_leading_axes_do():
    options = {"discount": 0.9, "normalizer": "remaining"}
    flat = losses.discounted_returns(rewards=jnp.array(REWARDS), mask=MASK, **options)
    deep = losses.discounted_returns(rewards=jnp.array(REWARDS)[:, None], mask=MASK[:, None], **options)
    np.testing.assert_array_equal(deep[:, 0], flat)


@pytest.mark.parametrize("precise", [False, True])
def test_whitened_values_have_mean_zero_and_variance_one(precise):
    rng = np.random.default_rng(0)
    values, mask = rng.normal(2, 5, size=(4, 7)), rng.uniform(size=(4, 7)) < 0.6
    values = values if precise else values.astype(np.float32)
    with jax.enable_x64(precise):
        result = np.asarray(losses.whitened(values=np.where(mask, values, np.nan), mask=mask))
    counted = values[mask].astype(np.float64)
    expected = (counted - counted.mean()) / counted.std()
    np.testing.assert_allclose(result[mask], expected, rtol=1e-8 if precise else 1e-5, atol=1e-6)
    assert not result[~mask].any()


def test_equal_values_and_no_values_are_whitened_to_zero():
    for mask in (MASK, np.zeros_like(MASK)):
        np.testing.assert_array_equal(losses.whitened(values=np.full(MASK.shape, 3.0, np.float32), mask=mask), 0 * MASK)


def test_rewards_are_scaled_and_cut():
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
    student[1, 1] = -np.inf
    pair = {"student_log_probs": student, "teacher_log_probs": teacher}
    rewards = losses.reverse_kl_rewards(**pair, mask=MASK, scale=0.5, clip=0.4)
    np.testing.assert_allclose(rewards, np.where(MASK, np.clip(0.5 * (teacher - student), -0.4, 0.4), 0), rtol=1e-6)
    assert losses.reverse_kl_rewards(**pair, mask=MASK)[1, 1] == np.inf


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"discount": 1.1}, "discount must be between 0 and 1, got 1.1"),
        ({"first_reward": "last"}, "first_reward must be 'own' or 'next', got 'last'"),
        ({"normalizer": "all"}, "normalizer must be 'none' or 'remaining', got 'all'"),
        ({"mask": MASK[:, :3]}, r"rewards must have one number for every token of the mask, shape \(2, 3\)"),
    ],
)
def test_errors(change, sentence):
    with pytest.raises(ValueError, match=f"^discounted_returns: {sentence}"):
        losses.discounted_returns(**{"rewards": np.array(REWARDS), "mask": MASK} | change)
    with pytest.raises(ValueError, match=r"^whitened: mask must have shape \[\.\.\., tokens\], got \(\)"):
        losses.whitened(values=1.0, mask=np.array(True))
