import pytest

from atkd_jax import config_fields
from atkd_jax.config import Config

FIELDS = dict(config_fields.dotted_fields(Config))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seed", "a whole number of at least 0"),
        ("run_dir", "a path"),
        ("teacher.model", "text"),
        ("teacher.dtype", "one of float32, bfloat16"),
        ("student", "a group of keys"),
        ("student.layers", "none or a whole number of at least 1"),
        ("student.keep_layers", "a list, each item a whole number"),
        ("student.directory", "none or a path"),
        ("data.packing", "true or false"),
        ("objective.temperature", "a number above 0"),
        ("objective.hard_fraction", "a number from 0 to 1"),
        ("optimizer.b1", "a number of at least 0 and below 1"),
    ],
)
def test_what_a_value_may_be(name, words):
    assert config_fields.allowed(FIELDS[name]) == words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "INT"),
        ("student.layers", "INT|none"),
        ("student.keep_layers", "[INT ...]"),
        ("student.directory", "PATH|none"),
        ("objective.direction", "{forward,reverse}"),
    ],
)
def test_what_stands_for_a_value(name, text):
    assert config_fields.metavar(FIELDS[name]) == text


def test_every_value_can_be_put_into_words():
    for field in FIELDS.values():
        if config_fields.group_of(field) is None:
            assert config_fields.allowed(field)
            assert config_fields.metavar(field)


def test_help_holds_the_bounds():
    assert config_fields.help_text(FIELDS["mesh.fsdp"]).endswith("this axis. (at least 1)")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("training.stpes", "training.steps"),
        ("traning.steps", "training.steps"),
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.lr_rate", "optimizer.learning_rate"),
        ("evaluation.batchsize", "evaluation.batch_size"),
        ("training.batchsize", "training.batch_size"),
        ("studnet", "student"),
        ("zzz", None),
    ],
)
def test_the_nearest_key(typed, meant):
    assert config_fields.nearest(typed, FIELDS) == meant


def test_nothing_is_near_among_nothing():
    assert config_fields.nearest("seed", []) is None
