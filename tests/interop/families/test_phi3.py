import math
from typing import ClassVar

import pytest
from family_checks import SHAPE, Case, FamilyChecks
from transformers import Phi3Config

from atkd_jax.errors import InputError
from atkd_jax.interop.families.phi3 import PHI3
from atkd_jax.models import LongRopeScaling


def longrope(*, pairs, **more):
    short, long = ([1 + slope * pair for pair in range(pairs)] for slope in (0.25, 3.0))
    return {"rope_parameters": {"rope_type": "longrope", "short_factor": short, "long_factor": long, **more}}


class TestPhi3(FamilyChecks):
    family = PHI3
    fullest = "windows and two sets of factors"
    cases: ClassVar = {
        # 64 greedy tokens go beyond 32, and the rows of a batch at different steps.
        "windows and two sets of factors": Case(
            "Phi3Config", SHAPE | {"sliding_window": 40, "original_max_position_embeddings": 32} | longrope(pairs=4)
        ),
        "heads pruned away": Case(
            "Phi3Config",
            SHAPE | {"head_dim": 6, "num_key_value_heads": 4, "hidden_act": "gelu", "tie_word_embeddings": True},
        ),
        "half of a head turned in long texts": Case(
            "Phi3Config",
            SHAPE
            | {"original_max_position_embeddings": 16}
            | longrope(pairs=2, partial_rotary_factor=0.5, attention_factor=1.3),
        ),
    }


FACTORS = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}
RAW = {
    "model_type": "phi3",
    "vocab_size": 97,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
}


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_old_files_are_read_and_what_is_written_old_versions_read(kind):
    config = PHI3.read_config(RAW | {"rope_scaling": {"type": kind, **FACTORS}})
    amplitude = math.sqrt(1 + math.log(32) / math.log(4096))
    assert config.rope_scaling == LongRopeScaling((1.0, 1.5), (2.0, 4.0), 4096, amplitude)
    written = PHI3.write_config(config)
    assert written["rope_scaling"] == {"type": "longrope", **FACTORS}  # three keys and no other
    assert written["original_max_position_embeddings"] == 4096
    assert PHI3.read_config(written) == config


def test_the_familys_own_length_goes_before_that_in_the_object():
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, **FACTORS}
    for given in (RAW, {key: value for key, value in RAW.items() if key != "original_max_position_embeddings"}):
        theirs = Phi3Config(
            **{key: value for key, value in given.items() if key != "model_type"}, rope_scaling=dict(rope)
        )
        ours = PHI3.read_config(given | {"rope_scaling": rope}).rope_scaling
        assert ours.original_max_position == theirs.rope_parameters["original_max_position_embeddings"] == 4096


def test_factors_that_do_not_fit_the_heads_are_refused():
    rope = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
    with pytest.raises(InputError, match=r"rope_scaling must have a factor for each of the 2 pairs .* got 1"):
        PHI3.read_config(RAW | {"rope_scaling": rope})
    with pytest.raises(
        InputError, match="must have a list of numbers at short_factor of its rotary scaling, but has 7"
    ):
        PHI3.read_config(RAW | {"rope_scaling": rope | {"short_factor": 7}})
