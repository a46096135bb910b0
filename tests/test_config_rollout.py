import pytest

from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError

UNPACKED = {"data.packing": False}
STUDENT = {"rollout.author": "student", **UNPACKED}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"rollout.once": True}, r"rollout\.once=true has the teacher answer .* author=data, fraction=1\.0"),
        ({"rollout.once": True, "rollout.author": "teacher", "rollout.fraction": 0.5}, r"set them to teacher, 1 and 0"),
        ({"rollout.author": "student"}, r"author=student writes one response a row, but data\.packing=true"),
        (STUDENT | {"mesh.sequence": 2}, r"author=student writes whole rows, but mesh\.sequence=2 splits"),
        ({"data.corpus": "plain.jsonl"}, r"data\.corpus=plain\.jsonl stands in the rows that no model writes, but"),
        (STUDENT | {"rollout.fraction_step": 0.1}, r"rollout\.author or training\.validate_every_steps is not set"),
        (
            {"rollout.fraction_step": 0.1, "training.validate_every_steps": 5},
            r"rollout\.fraction_step=0\.1 goes by the validation loss of a run that writes text",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config(overrides=overrides)


def test_text_that_is_written_once_is_data():
    config = load_config(overrides={"rollout.once": True, "rollout.author": "teacher", "mesh.sequence": 2})
    assert not config.rollout.is_during_training
    assert config.data.packing
    assert load_config(overrides=STUDENT).rollout.is_during_training
