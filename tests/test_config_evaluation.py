import pytest

from atkd_jax.config import Config
from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError


def test_the_defaults_are_the_papers():
    own = Config().evaluation.instructions
    assert (own.greedy, len(own.seeds), own.max_new_tokens, own.prompt) == (True, 5, 256, "paper")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"evaluation.instructions.seeds": [3, 3]}, "each once"),
        ({"evaluation.instructions.seeds": [-1]}, "at least 0"),
        (
            {
                "evaluation.instructions.sets": ["a.jsonl"],
                "evaluation.instructions.greedy": "false",
                "evaluation.instructions.seeds": [],
            },
            "so that there are answers",
        ),
        ({"evaluation.judge.max_in_flight": "0"}, "max_in_flight"),
        ({"evaluation.harness.max_length": "1"}, "max_length"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config(None, overrides)
