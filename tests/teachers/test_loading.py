import jax.numpy as jnp
import pytest

from atkd_jax.config import Config, TeacherConfig
from atkd_jax.teachers import load_teacher


@pytest.fixture
def config(tiny_teacher_directory, tmp_path):
    return Config(
        teacher={"model": str(tiny_teacher_directory), "dtype": "bfloat16"},
        training={"attention": "xla"},
        cache_dir=tmp_path,
    )


def test_a_directory_becomes_a_model_in_the_type_asked_for(config, tiny_teacher_directory):
    teacher = load_teacher(config)
    assert teacher.directory == tiny_teacher_directory
    assert teacher.model.embedding[...].dtype == jnp.bfloat16
    assert teacher.model.config.vocab_size == len(teacher.tokenizer)
    assert teacher.model.layers.attention.kernel == "xla"


def test_another_teacher_than_the_configs_own_can_be_asked_for(config, tiny_teacher_directory):
    other = TeacherConfig(model=str(tiny_teacher_directory), dtype="float32")
    assert load_teacher(config, teacher=other).model.embedding[...].dtype == jnp.float32
