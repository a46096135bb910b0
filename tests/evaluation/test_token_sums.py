import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atkd_jax.evaluation.metric_step import TokenMetrics
from atkd_jax.evaluation.token_sums import TokenSums


def metrics(teacher_cross_entropy, *, seed=0, models=2):
    """Random numbers of so many tokens, the teacher's cross-entropy given."""
    values = np.random.default_rng(seed).uniform(size=(models, len(TokenMetrics._fields), len(teacher_cross_entropy)))
    values[0, 0] = teacher_cross_entropy
    return values.astype(np.float32)


def exact_decile_means(values):
    """Means of every field over tenths of equal numbers of tokens in the exact order of the teacher's -log p."""
    parts = np.split(values[:, :, np.argsort(values[0, 0])].astype(np.float64), 10, axis=-1)
    return [part.mean(axis=-1) for part in parts]


def test_deciles_of_many_tokens_are_the_exact_ones_up_to_the_resolution():
    values = metrics(np.random.default_rng(1).exponential(size=50_000) ** 3)
    sums = TokenSums(["teacher", "student"])
    for batch in np.split(values, 25, axis=-1):
        sums.add(batch)
    report = sums.report()
    for decile, expected in zip(report.deciles, exact_decile_means(values), strict=True):
        assert decile.tokens == pytest.approx(5000)
        # A border's step holds less than 1 % of a decile; its tokens' own values are random between 0 and 1.
        np.testing.assert_allclose(decile.scores["student"].forward_kl, expected[1, 1], atol=2e-3)
        np.testing.assert_allclose(decile.scores["teacher"].cross_entropy, expected[0, 0], rtol=1 / 256)


@settings(max_examples=15)
@given(
    levels=st.lists(st.sampled_from([0.0, 1e-12, 1e-7, 0.5, 3.0, 1e5, np.inf, np.nan]), min_size=1, max_size=40),
    seed=st.integers(0, 9),
)
def test_no_number_depends_on_the_order_and_deciles_make_up_the_whole(levels, seed):
    values = metrics(np.array(levels), seed=seed)
    values[0, 0] = np.nan_to_num(values[0, 0], nan=40.0, posinf=50.0)
    order = np.random.default_rng(seed).permutation(len(levels))
    reports = []
    for own in (values, values[..., order]):
        sums = TokenSums(["teacher", "student"])
        for start in range(0, len(levels), 7):
            sums.add(own[..., start : start + 7])
        reports.append(sums.report())
    for one, other in zip(*(report.deciles for report in reports), strict=True):
        np.testing.assert_allclose(
            *(list(scores.to_json().values()) for scores in (one.scores["student"], other.scores["student"])), atol=1e-9
        )
    whole = reports[0].scores["student"].reverse_kl
    np.testing.assert_allclose(whole, values[1, 2].astype(np.float64).mean(), atol=1e-12)
    np.testing.assert_allclose(whole, np.mean([d.scores["student"].reverse_kl for d in reports[0].deciles]), atol=1e-9)
    borders = [(decile.unc_from, decile.unc_to) for decile in reports[0].deciles]
    assert borders == sorted(borders)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_teacher_is_still_reported(value):
    sums = TokenSums(["teacher"])
    sums.add(metrics(np.array([value, 1.0]), models=1))
    report = sums.report()
    assert report.counted_tokens == 2
    assert not np.isfinite(report.scores["teacher"].cross_entropy)


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not():
    for accuracy, expected in ((1.0, 0.0), (0.0, 1.0)):
        values = metrics(np.ones(20), models=1)
        values[0, TokenMetrics._fields.index("confidence")] = 1.0
        values[0, TokenMetrics._fields.index("accuracy")] = accuracy
        sums = TokenSums(["teacher"])
        sums.add(values)
        assert sums.report().scores["teacher"].calibration_error == expected
