import pytest

from atkd_jax.errors import InputError
from atkd_jax.models import LinearRopeScaling, Llama3RopeScaling


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
