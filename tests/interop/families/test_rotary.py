import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families.rotary import read_rotary
from atkd_jax.models import Llama3RopeScaling

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("raw", "theta", "scaling"),
    [
        ({}, 10_000.0, None),
        ({"rope_theta": 7}, 7.0, None),
        ({"rope_theta": None}, 10_000.0, None),
        ({"rope_theta": 7.0, "rope_scaling": None}, 7.0, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}, 9.0, None),
        ({"rope_theta": 7.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 7.0, SCALING),
        ({"rope_theta": 7.0, "rope_scaling": {"type": "llama3", **LLAMA3}}, 7.0, SCALING),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5.0, **LLAMA3}}, 5.0, SCALING),
        ({"partial_rotary_factor": 1.0}, 10_000.0, None),
    ],
)
def test_old_and_new_spellings(raw: dict, theta: float, scaling: Llama3RopeScaling | None):
    assert read_rotary(raw) == {"rope_theta": theta, "rope_scaling": scaling}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "has type 'linear' and partial_rotary_factor None"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "must have a number at low_freq_factor"),
        ({"rope_theta": "big"}, "must have a number at rope_theta of its rotary scaling, but has 'big'"),
        ({"rope_scaling": "llama3"}, "must have an object at rope_parameters, but has 'llama3'"),
    ],
)
def test_what_is_not_computed_is_refused(raw: dict, words: str):
    with pytest.raises(InputError, match=words):
        read_rotary(raw)
