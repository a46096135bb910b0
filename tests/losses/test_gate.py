"""The gate and the weights: ranks, ties, counts that are known on the device alone, and batches over devices."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atkd_jax import losses

fractions = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
batches = st.tuples(
    hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])),
    hnp.arrays(np.bool_, (3, 7)),
)
by_uncertainty = jax.jit(
    lambda values, mask, hard_fraction: losses.hard_token_mask(
        uncertainty=values, mask=mask, hard_fraction=hard_fraction
    ),
    static_argnums=2,
)


@given(batches, fractions)
def test_agrees_with_numpy(oracle, batch, hard_fraction):
    uncertainty, mask = batch
    expected = oracle.hard(uncertainty, mask, hard_fraction)
    np.testing.assert_array_equal(by_uncertainty(uncertainty, mask, hard_fraction), expected)


@given(st.integers(1, 21), fractions)
@example(11, 0.8)  # In float64 10 * (1 - 0.8) lies below 2, in float32 on it.
def test_the_share_of_hard_tokens_follows_the_formula_in_float64(n, hard_fraction):
    mask = np.zeros((3, 7), bool)
    mask.ravel()[:n] = True
    uncertainty = np.arange(21, dtype=np.float32).reshape(3, 7) / 21
    hard = np.asarray(by_uncertainty(uncertainty, mask, hard_fraction))
    assert hard.sum() == n - int(np.floor((n - 1) * (1 - hard_fraction)))


def test_log_probs_rank_what_uncertainties_cannot():
    """Near 1 float32 has no room for 1 - p; log p still orders the tokens."""
    log_probs = np.array([[-40.0, -30.0, -50.0, -20.0, -60.0]], np.float32)
    mask = np.ones_like(log_probs, bool)
    hard = losses.hard_token_mask(target_log_probs=log_probs, mask=mask)
    np.testing.assert_array_equal(hard, [[True, False, True, False, True]])
    saturated = (1 - np.exp(log_probs)).astype(np.float32)
    assert losses.hard_token_mask(uncertainty=saturated, mask=mask).all()


def test_ties_are_hard():
    equal = np.full((2, 3), 0.25, np.float32)
    assert losses.hard_token_mask(uncertainty=equal, mask=np.ones((2, 3), bool), hard_fraction=0.1).all()


def test_uncounted_values_have_no_influence():
    uncertainty = np.array([0.1, np.nan, 0.9, np.inf, 0.5], np.float32)
    mask = np.array([True, False, True, False, True])
    np.testing.assert_array_equal(losses.hard_token_mask(uncertainty=uncertainty, mask=mask), [0, 0, 1, 0, 1])
    assert losses.hard_token_threshold(uncertainty=uncertainty, mask=mask) == np.float32(0.5)


@pytest.mark.parametrize("shape", [(0,), (4,), (1,)])
def test_no_counted_token(shape):
    mask, uncertainty = np.zeros(shape, bool), np.full(shape, 0.5, np.float32)
    hard = losses.hard_token_mask(uncertainty=uncertainty, mask=mask)
    assert not hard.any()
    assert losses.hard_token_threshold(uncertainty=uncertainty, mask=mask) == 0
    for weights in losses.atkd_token_weights(hard=hard, mask=mask):
        np.testing.assert_array_equal(weights, np.zeros(shape))


def test_the_threshold_is_an_uncertainty_in_both_forms():
    uncertainty = np.array([1e-12, 0.2, 0.7], np.float32)
    mask = np.ones(3, bool)
    log_probs = np.log1p(-np.float64(uncertainty)).astype(np.float32)
    for fraction, expected in ((0.5, 0.2), (1.0, 1e-12)):
        for measure in ({"uncertainty": uncertainty}, {"target_log_probs": log_probs}):
            threshold = losses.hard_token_threshold(**measure, mask=mask, hard_fraction=fraction)
            np.testing.assert_allclose(threshold, expected, rtol=1e-6)


def test_a_batch_that_is_split_over_devices_is_ranked_as_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    uncertainty, mask = rng.uniform(size=(16, 5)).astype(np.float32), rng.uniform(size=(16, 5)) < 0.7
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = jax.device_put((uncertainty, mask), rows)
    np.testing.assert_array_equal(by_uncertainty(*placed, 0.3), by_uncertainty(uncertainty, mask, 0.3))


@given(batches, st.floats(0, 1), st.sampled_from(["group_mean", "total_tokens"]))
def test_weights_add_up_to_the_means_of_the_groups(batch, easy_weight, normalizer):
    values, mask = batch
    hard = by_uncertainty(values, mask, 0.5)
    tkd, dkd = np.sin(np.arange(21.0)).reshape(3, 7), np.cos(np.arange(21.0)).reshape(3, 7)
    on_target, on_diversity = losses.atkd_token_weights(
        hard=hard, mask=mask, easy_weight=easy_weight, normalizer=normalizer
    )
    assert on_target.dtype == on_diversity.dtype == jnp.float32
    hard, easy = np.asarray(hard), mask & ~np.asarray(hard)
    counts = [hard.sum(), easy.sum()] if normalizer == "group_mean" else [mask.sum()] * 2
    expected = (1 - easy_weight) * (tkd + dkd)[hard].sum() / max(counts[0], 1)
    expected += easy_weight * dkd[easy].sum() / max(counts[1], 1)
    np.testing.assert_allclose((on_target * tkd + on_diversity * dkd).sum(), expected, rtol=1e-5, atol=1e-6)
    assert not np.asarray(on_target)[~hard].any()
    assert not np.asarray(on_diversity)[~mask].any()


def test_the_easy_weight_may_follow_a_schedule():
    hard, mask = np.array([True, False, False]), np.ones(3, bool)
    scheduled = jax.jit(lambda weight: losses.atkd_token_weights(hard=hard, mask=mask, easy_weight=weight))
    np.testing.assert_allclose(scheduled(0.4)[1], [0.6, 0.2, 0.2], rtol=1e-6)


class TestErrors:
    mask = np.ones(3, bool)
    values = np.zeros(3, np.float32)

    @pytest.mark.parametrize("function", [losses.hard_token_mask, losses.hard_token_threshold])
    def test_exactly_one_measure(self, function):
        message = f"{function.__name__}: exactly one of uncertainty and target_log_probs must be given, got "
        with pytest.raises(TypeError, match=message + "neither"):
            function(mask=self.mask)
        with pytest.raises(TypeError, match=message + "both"):
            function(uncertainty=self.values, target_log_probs=self.values, mask=self.mask)

    def test_mask(self):
        function = partial(losses.hard_token_mask, uncertainty=self.values)
        with pytest.raises(TypeError, match=r"mask must be of boolean type, got int32; write mask\.astype\(bool\)"):
            function(mask=np.ones(3, np.int32))
        with pytest.raises(ValueError, match=r"mask must have one value for every position, shape \(3,\), got \(4,\)"):
            function(mask=np.ones(4, bool))

    def test_measure(self):
        with pytest.raises(TypeError, match="uncertainty must be of floating type, got int32; pass one number"):
            losses.hard_token_mask(uncertainty=np.zeros(3, np.int32), mask=self.mask)

    @pytest.mark.parametrize("hard_fraction", [-0.1, 1.1, float("nan")])
    def test_hard_fraction(self, hard_fraction):
        with pytest.raises(ValueError, match="hard_token_mask: hard_fraction must be between 0 and 1, got "):
            losses.hard_token_mask(uncertainty=self.values, mask=self.mask, hard_fraction=hard_fraction)

    def test_weights(self):
        with pytest.raises(ValueError, match="normalizer must be 'group_mean' or 'total_tokens', got 'mean'; choose"):
            losses.atkd_token_weights(hard=self.mask, mask=self.mask, normalizer="mean")
        with pytest.raises(ValueError, match=r"easy_weight must be between 0 and 1, got 2\.0; choose another weight"):
            losses.atkd_token_weights(hard=self.mask, mask=self.mask, easy_weight=2)
