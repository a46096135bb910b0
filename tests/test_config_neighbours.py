import pytest
from pydantic import ValidationError

from atkd_jax.config import Config

BOTH = {"k_start": 15.0, "k_end": -10.0}


def test_weighting_is_off_until_both_ends_are_given():
    assert not Config().objective.instance_weighting.is_on
    assert Config(objective={"instance_weighting": BOTH}).objective.instance_weighting.is_on


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"objective": {"instance_weighting": {"k_start": 15.0}}}, "needs both k_start and k_end"),
        ({"objective": {"name": "cross_entropy", "instance_weighting": BOTH}}, "objective.name=cross_entropy is none"),
        ({"objective": {"cross_entropy_weight": 0.5, "instance_weighting": BOTH}}, "leave that at 0"),
        (
            {"objective": {"instance_weighting": BOTH}, "rollout": {"author": "student"}, "data": {"packing": False}},
            "rollout.author=student writes other text",
        ),
        (
            {"objective": {"name": "reverse_kl", "token_similarity": {"scale": 1.0, "delta": 0.1}}},
            "name=reverse_kl, temperature=1.0",
        ),
        (
            {"objective": {"token_similarity": {"scale": 1.0}}, "teacher": {"quantize": "int8"}},
            "teacher.quantize=int8, teacher.cache=None and rollout.author=data",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tree, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Config.model_validate(tree)
