import pytest

from atkd_jax.errors import InputError
from atkd_jax.models import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    YarnRopeScaling,
)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0.5, 1.0, 4.0, 32), "factor must be at least 1, got 0.5"),
        ((8.0, 4.0, 4.0, 32), "low_freq_factor must be positive and below high_freq_factor, got 4.0 and 4.0"),
        ((8.0, 1.0, 4.0, 0), "original_max_position must be at least 1, got 0"),
    ],
)
def test_rope_scaling_that_does_not_fit_is_refused(numbers, sentence):
    with pytest.raises(InputError, match=sentence):
        Llama3RopeScaling(*numbers)


def test_a_linear_factor_below_1_is_refused():
    with pytest.raises(InputError, match=r"factor must be at least 1, got 0\.9"):
        LinearRopeScaling(0.9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"original_max_position": 0}, "original_max_position must be at least 1, got 0"),
        ({"beta_slow": 40.0}, r"beta_slow must be positive and below beta_fast, got 40\.0 and 32\.0"),
        ({"amplitude": 0.0}, r"amplitude must be above 0, got 0\.0"),
    ],
)
def test_yarn_that_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        YarnRopeScaling(**({"factor": 4.0, "original_max_position": 32, "amplitude": 1.1} | changes))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (((1.0, 0.0), (1.0, 2.0), 32, 1.0), r"short_factors must all be above 0, got \(1\.0, 0\.0\)"),
        (((1.0, 2.0), (1.0,), 32, 1.0), "short_factors and long_factors must be as many, got 2 and 1"),
        (((1.0,), (1.0,), 0, 1.0), "original_max_position must be at least 1, got 0"),
        (((1.0,), (1.0,), 32, 0.0), r"amplitude must be above 0, got 0\.0"),
    ],
)
def test_longrope_that_does_not_fit_is_refused(numbers, sentence):
    with pytest.raises(InputError, match=sentence):
        LongRopeScaling(*numbers)


def test_a_dynamic_factor_below_1_is_refused():
    with pytest.raises(InputError, match=r"factor must be at least 1, got 0\.5"):
        DynamicRopeScaling(0.5, 32)
