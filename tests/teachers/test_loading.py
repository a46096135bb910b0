import jax.numpy as jnp

from atkd_jax.config import TeacherConfig
from atkd_jax.teachers import load_teacher


def test_a_directory_becomes_a_model_in_the_type_asked_for(tiny_teacher_directory, tmp_path):
    config = TeacherConfig(model=str(tiny_teacher_directory), dtype="bfloat16")
    teacher = load_teacher(config, cache_dir=tmp_path)
    assert teacher.directory == tiny_teacher_directory
    assert teacher.model.embedding[...].dtype == jnp.bfloat16
    assert teacher.model.config.vocab_size == len(teacher.tokenizer)
