"""Signals against NumPy float64: what is exact, what is listed, and how often what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparse_cases import keys_of, random_case, rest_sample, top_k_signal

from atkd_jax import losses


def test_a_top_k_signal_agrees_with_numpy(oracle):
    _, teacher, targets = random_case(1)
    signal = top_k_signal(teacher, targets, k=4)
    p = oracle.softmax(teacher)
    order = np.argsort(-p, -1)[..., :4]
    np.testing.assert_array_equal(signal.ids, order)
    np.testing.assert_allclose(signal.log_probs, np.log(np.take_along_axis(p, order, -1)), atol=1e-6)
    np.testing.assert_allclose(np.exp(signal.log_rest_mass), np.sort(p, -1)[..., :-4].sum(-1), rtol=1e-6)
    rest = oracle.rest(p, targets)
    np.testing.assert_allclose(signal.target_log_prob, np.log(oracle.target(p, targets)), atol=1e-6)
    np.testing.assert_allclose(signal.log_uncertainty, np.log(1 - oracle.target(p, targets)), atol=1e-6)
    np.testing.assert_allclose(signal.rest_entropy, -(rest * np.log(rest)).sum(-1), rtol=1e-5)
    assert {array.dtype for array in signal[:3]} == {np.dtype("float32")}
    assert signal.ids.dtype == np.int32


def test_more_words_than_there_are_leave_places_unused():
    _, teacher, targets = random_case(1)
    signal = top_k_signal(teacher, targets, k=12)
    assert (np.asarray(signal.ids)[..., 9:] == -1).all()
    assert np.isneginf(np.asarray(signal.log_probs)[..., 9:]).all()
    assert np.isneginf(signal.log_rest_mass).all()


@pytest.mark.parametrize("margin", [25.0, 60.0, 1e4])
def test_a_saturated_teacher_keeps_its_digits(margin):
    """p(target) is 1 to machine precision; what is left, and how it is shared, is not lost."""
    teacher = np.array([[margin, 0.0, 1.0, 2.0]], np.float32)
    targets = np.array([0], np.int32)
    signal = top_k_signal(teacher, targets, k=2)
    others = np.exp(np.arange(3.0))
    with np.errstate(under="ignore"):
        log_uncertainty = np.log(others.sum()) - margin - np.log1p(others.sum() * np.exp(-margin))
    np.testing.assert_allclose(signal.log_uncertainty, [log_uncertainty], rtol=1e-6)
    np.testing.assert_allclose(signal.target_log_prob, [-np.exp(log_uncertainty)], rtol=1e-4)
    shares = others / others.sum()
    np.testing.assert_allclose(signal.rest_entropy, [-(shares * np.log(shares)).sum()], rtol=1e-5)
    np.testing.assert_allclose(signal.log_probs[0, 1] - signal.log_uncertainty[0], np.log(shares[2]), atol=2e-3)
    drawn = rest_sample(teacher, targets, keys_of(targets), draws=2000)
    counts = np.zeros(4)
    ids = np.asarray(drawn.ids)[0]
    counts[ids[ids >= 0]] = np.asarray(drawn.counts)[0][ids >= 0]
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 2000, shares, atol=4 * 0.5 / np.sqrt(2000))


def test_draws_are_distinct_counted_and_never_the_target():
    _, teacher, targets = random_case(2, (50,), 7)
    signal = rest_sample(teacher, targets, keys_of(targets), draws=16)
    ids, counts = np.asarray(signal.ids), np.asarray(signal.counts)
    assert ids.shape == (50, 16)
    assert (counts.sum(-1) == 16).all()
    assert ((ids >= 0) == (counts > 0)).all()
    assert not (ids == targets[:, None]).any()
    for row in ids:
        chosen = row[row >= 0]
        assert len(set(chosen.tolist())) == len(chosen)


@pytest.mark.parametrize("draw", ["rest", "tail"])
def test_words_are_drawn_as_often_as_they_are_likely(oracle, draw):
    """10,000 draws of 1,000 words: every frequency within 5 standard errors, and chi-square within 5 of its own."""
    _, teacher, targets = random_case(3, (1,), 1000)
    if draw == "rest":
        signal = rest_sample(teacher, targets, keys_of(targets), draws=10_000)
        ids, share = np.asarray(signal.ids[0]), np.asarray(signal.counts[0], np.float64) / 10_000
        left_out = targets
    else:
        signal = top_k_signal(teacher, targets, keys_of(targets), k=8, tail_draws=10_000)
        ids, weights = np.asarray(signal.tail.ids[0]), np.asarray(signal.tail.weights[0], np.float64)
        left_out = np.concatenate([np.asarray(signal.ids[0]), targets])
        p = oracle.softmax(teacher)[0]
        np.testing.assert_allclose(weights.sum(), 1 - p[np.unique(left_out)].sum(), rtol=1e-5)
        share = weights / weights.sum()
    p = oracle.softmax(teacher)[0]
    p[left_out] = 0
    p /= p.sum()
    got = np.zeros(1000)
    got[ids[ids >= 0]] = share[ids >= 0]
    assert not got[left_out].any()
    possible = p > 0
    spread = np.sqrt(p[possible] * (1 - p[possible]) / 10_000)
    # What is expected less than once has no normal error, and may be met.
    often = p[possible] * 10_000 > 5
    assert (np.abs(got - p)[possible] / spread)[often].max() < 5
    chi_square = 10_000 * ((got - p)[possible] ** 2 / p[possible]).sum()
    words = possible.sum() - 1
    assert abs(chi_square - words) < 5 * np.sqrt(2 * words + (1 / p[possible]).sum() / 10_000)


def test_a_token_is_drawn_for_without_regard_to_its_neighbours():
    _, teacher, targets = random_case(4)
    keys = keys_of(targets)
    whole = rest_sample(teacher, targets, keys, draws=8)
    alone = rest_sample(teacher[1:2, 2:], targets[1:2, 2:], keys[1:2, 2:], draws=8)
    np.testing.assert_array_equal(alone.ids, whole.ids[1:2, 2:])
    np.testing.assert_array_equal(alone.counts, whole.counts[1:2, 2:])
    other = rest_sample(teacher, targets, keys_of(targets, 1), draws=8)
    assert (np.asarray(other.counts) != np.asarray(whole.counts)).any()


@pytest.mark.parametrize("excluded", [False, True])
def test_a_teacher_that_leaves_one_word_or_none(excluded):
    teacher = np.array([[1.0, -np.inf if excluded else 0.0]], np.float32)
    targets = np.array([0], np.int32)
    drawn = rest_sample(teacher, targets, keys_of(targets), draws=3)
    ids, counts = ([-1, -1, -1], [0, 0, 0]) if excluded else ([1, -1, -1], [3, 0, 0])
    assert (drawn.ids.tolist(), drawn.counts.tolist()) == ([ids], [counts])
    assert drawn.rest_entropy.tolist() == [0]
    assert np.isneginf(drawn.log_uncertainty[0]) == excluded
    signal = top_k_signal(teacher, targets, k=1)
    assert np.isneginf(signal.log_rest_mass[0]) == excluded


def test_bfloat16_is_widened():
    _, teacher, targets = random_case(5)
    signal = top_k_signal(jnp.asarray(teacher, jnp.bfloat16), targets, k=2)
    assert signal.log_probs.dtype == jnp.float32


def test_wrong_arguments_are_errors():
    _, teacher, targets = random_case()
    with pytest.raises(TypeError, match="rest_sample: keys must be random keys, got None; make them with"):
        losses.rest_sample(teacher_logits=teacher, targets=targets, draws=2, keys=None)
    with pytest.raises(
        ValueError, match=r"top_k_signal: keys must be one for every position, shape \(3, 4\), got \(\)"
    ):
        losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2, tail_draws=2, keys=jax.random.key(0))
    with pytest.raises(ValueError, match="top_k_signal: k must be at least 1, got 0; choose another number"):
        losses.top_k_signal(teacher_logits=teacher, targets=targets, k=0)
