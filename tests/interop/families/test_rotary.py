import math

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families.rotary import rotary_fields
from atkd_jax.models import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    YarnRopeScaling,
)

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1, 2.0],
    "long_factor": [3.0, 4.0],
    "original_max_position_embeddings": 64,
}
SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
ROTARY = rotary_fields()


def read(raw: dict) -> dict:
    return ROTARY.read(raw, {"head_dim": 16})


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
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 9.0, **LLAMA3}, "rope_theta": 1.0}, 9.0, SCALING),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 10_000.0, LinearRopeScaling(2.0)),
        ({"rope_scaling": YARN | {"attention_factor": 1.5}}, 10_000.0, YarnRopeScaling(4.0, 32768, 1.5)),
        ({"rope_scaling": YARN}, 10_000.0, YarnRopeScaling(4.0, 32768, 0.1 * math.log(4.0) + 1.0)),
        (
            {"rope_scaling": YARN | {"mscale": 2.0, "mscale_all_dim": 1.0, "beta_slow": 2, "truncate": False}},
            10_000.0,
            YarnRopeScaling(4.0, 32768, (0.2 * math.log(4.0) + 1) / (0.1 * math.log(4.0) + 1), 32.0, 2.0, False),
        ),
        (
            {"rope_scaling": YARN | {"factor": None, "attention_factor": 1.0}, "max_position_embeddings": 65536},
            10_000.0,
            YarnRopeScaling(2.0, 32768, 1.0),
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": 512},
            10_000.0,
            DynamicRopeScaling(2.0, 512),
        ),
        (
            {"rope_scaling": LONGROPE | {"factor": 8.0}, "max_position_embeddings": 512},
            10_000.0,
            LongRopeScaling((1.0, 2.0), (3.0, 4.0), 64, math.sqrt(1.5)),  # log(8) is half of log(64)
        ),
        (
            {"rope_scaling": LONGROPE | {"attention_factor": 1.5}, "original_max_position_embeddings": 128},
            10_000.0,
            LongRopeScaling((1.0, 2.0), (3.0, 4.0), 128, 1.5),
        ),
    ],
)
def test_both_spellings_are_read(raw, theta, scaling):
    assert read(raw) == {"rope_theta": theta, "rope_scaling": scaling, "rotary_dim": None}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            {"rope_scaling": {"type": "proportional", "factor": 2.0}},
            "of type default, linear, dynamic, llama3, yarn or longrope, .* type 'proportional'",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "must have a number at max_position_embeddings"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "a number at original_max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "must have a number at low_freq_factor"),
        ({"rope_theta": "7"}, "must have a number at rope_theta"),
        ({"rope_scaling": "llama3"}, "must have an object at rope_parameters, but has 'llama3'"),
        ({"partial_rotary_factor": "half"}, "must have a number at partial_rotary_factor"),
    ],
)
def test_what_is_not_computed_here_is_refused(raw, words):
    with pytest.raises(InputError, match=words):
        read(raw)


def test_a_share_of_a_head_is_read_under_both_keys():
    assert read({"partial_rotary_factor": 0.5})["rotary_dim"] == 8
    assert read({"rope_parameters": {"partial_rotary_factor": 0.25}})["rotary_dim"] == 4
    pythia = rotary_fields(theta_key="rotary_emb_base", share_key="rotary_pct", default_share=0.25)
    assert pythia.read({}, {"head_dim": 64})["rotary_dim"] == 16
    raw = {"rotary_pct": 1.0, "rotary_emb_base": 500}
    assert pythia.read(raw, {"head_dim": 64}) == {"rope_theta": 500.0, "rope_scaling": None, "rotary_dim": None}
