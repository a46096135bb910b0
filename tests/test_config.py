from pathlib import Path

import pydantic
import pytest

from atkd_jax.config import CheckpointConfig, Config, OptimizerConfig, TrainingConfig
from atkd_jax.config_fields import dotted_fields, group_of


def test_the_defaults_are_a_valid_config():
    assert Config.model_validate(Config().model_dump()) == Config()


def test_every_value_is_described():
    silent = [name for name, field in dotted_fields(Config) if group_of(field) is None and not field.description]
    assert not silent


def test_every_group_is_described():
    silent = [name for name, field in dotted_fields(Config) if (group := group_of(field)) and not group.__doc__]
    assert not silent


def test_a_config_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Config().seed = 1  # pyright: ignore[reportAttributeAccessIssue]  # the point of the test


def test_microbatches_divide_the_batch():
    with pytest.raises(
        pydantic.ValidationError, match=r"training.batch_size=8 must be a multiple of training.microbatches=3"
    ):
        TrainingConfig(batch_size=8, microbatches=3)


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (CheckpointConfig, {"every_steps": 0}),
        (OptimizerConfig, {"learning_rate": 0.0}),
        (OptimizerConfig, {"learning_rate": float("inf")}),
        (OptimizerConfig, {"b1": 1.0}),
    ],
)
def test_values_out_of_range_are_refused(group, values):
    with pytest.raises(pydantic.ValidationError):
        group(**values)


def test_a_profile_begins_within_the_run():
    Config.model_validate({"training": {"steps": 4}, "profile": {"start_step": 4}})
    with pytest.raises(pydantic.ValidationError, match=r"profile.start_step=5 must be at most training.steps=4"):
        Config.model_validate({"training": {"steps": 4}, "profile": {"start_step": 5}})


def test_a_path_may_begin_with_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    config = Config.model_validate({"run_dir": "~/runs/a"})
    assert (config.run_dir, config.cache_dir) == (Path("/somewhere/runs/a"), Path("/somewhere/.cache/atkd_jax"))


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"rollout": {"author": "student"}}, r"rollout\.author=student writes one response a row, but"),
        ({"objective": {"name": "minillm_paper"}}, r"own text, but rollout\.author=data; set it to student or mixed"),
        (
            {"objective": {"name": "minillm_paper"}, "rollout": {"author": "mixed", "top_p": 0.9}},
            "it must be drawn anew and from whole distributions",
        ),
        ({"objective": {"name": "minillm_paper", "cross_entropy_weight": 0.1}}, "has a loss of its own on the data's"),
        (
            {"objective": {"name": "universal_logit", "cross_entropy_weight": 0.1}},
            "has a loss of its own on the data's text",
        ),
        (
            {"objective": {"name": "universal_logit", "adaptive": True}},
            r"objective\.name=universal_logit is none; name",
        ),
        (
            {"objective": {"name": "universal_logit"}},
            r"is for a student with a tokenizer of its own and a live .*, but student\.init=prune; set it to dir",
        ),
        (
            {
                "objective": {"name": "universal_logit"},
                "student": {"init": "directory", "directory": "small"},
                "rollout": {"author": "student"},
                "data": {"packing": False},
            },
            r"but rollout\.author=student; set it to data",
        ),
        (
            {
                "objective": {"name": "universal_logit"},
                "student": {"init": "directory", "directory": "small"},
                "training": {"validate_every_steps": 5},
            },
            r"but training\.validate_every_steps=5; set it to null",
        ),
        (
            {
                "objective": {"name": "universal_logit"},
                "student": {"init": "directory", "directory": "small"},
                "teacher": {"cache": "what/it/said"},
            },
            r"and a live teacher of the data's text, but teacher\.cache=what/it/said; set it to null",
        ),
        (
            {"objective": {"name": "universal_logit", "tokens": "hard"}},
            r"objective\.tokens=hard leaves tokens out of a plain divergence, but objective\.name=universal_logit or",
        ),
        ({"objective": {"name": "cross_entropy", "adaptive": True}}, r"objective\.name=cross_entropy is none; name a"),
    ],
)
def test_what_does_not_go_together_is_refused(tree, sentence):
    with pytest.raises(pydantic.ValidationError, match=sentence):
        Config.model_validate(tree)
