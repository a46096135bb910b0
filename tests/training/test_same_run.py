import pytest

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.training.same_run import require_same_run


def saved(**changes):
    return Config.model_validate(changes).model_dump(mode="json")


def test_what_does_not_change_the_numbers_may_change():
    config = Config.model_validate(
        {
            "run_dir": "elsewhere",
            "mesh": {"fsdp": 2},
            "teacher": {"cache": "moved", "endpoint": "http://elsewhere/v1", "endpoint_options": {"in_flight": 2}},
            "training": {"steps": 7, "microbatches": 2, "remat": "full", "chunk_tokens": 5},
            "evaluation": {"samples": 0},
        }
    )
    require_same_run(saved(), config)


def test_everything_else_is_named_with_both_values():
    config = Config.model_validate({"seed": 3, "optimizer": {"learning_rate": 0.5}, "student": {"keep_layers": [0, 2]}})
    with pytest.raises(InputError) as caught:
        require_same_run(saved(), config)
    sentence = str(caught.value)
    assert "seed=0 then and 3 now" in sentence
    assert "optimizer.learning_rate=0.001 then and 0.5 now" in sentence
    assert "student.keep_layers=[] then and [0, 2] now" in sentence
    assert "give the old values, or another run_dir" in sentence


def test_a_field_that_a_version_lacks_differs():
    older = saved()
    del older["objective"]["temperature"]
    with pytest.raises(InputError, match=r"objective.temperature=null then and 1.0 now"):
        require_same_run(older, Config())


def test_the_held_out_split_may_not_change_where_the_rollouts_go_by_it():
    rollout = {"author": "student", "fraction_step": 0.1}
    common = {"rollout": rollout, "training": {"validate_every_steps": 2}, "data": {"packing": False}}
    other = Config.model_validate(common | {"evaluation": {"split": "train[:9]"}})
    with pytest.raises(InputError, match=r"evaluation\.split=.* then and \"train\[:9\]\" now"):
        require_same_run(saved(**common), other)
