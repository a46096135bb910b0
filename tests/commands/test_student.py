import jax
import numpy as np
import pytest
from flax import nnx

from atkd_jax.commands.student import abstract_decoder, base_of_adapters, read_trained_student
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model, read_config


@pytest.fixture
def shape(tiny_teacher_directory):
    return read_config(tiny_teacher_directory)


def test_an_abstract_decoder_allocates_nothing(shape):
    params = nnx.state(abstract_decoder(shape, dtype="float32", param_dtype="bfloat16"))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(params))


def test_the_trained_student_is_the_checkpoints(trained, tiny_teacher_directory):
    student, step = read_trained_student(trained, teacher_directory=tiny_teacher_directory)
    assert step == 3
    teacher = load_model(tiny_teacher_directory)
    np.testing.assert_allclose(student.embedding[...], 1.5 * teacher.embedding[...])
    assert student.config.num_layers == 2


def test_a_run_without_a_checkpoint_is_named(untrained, tiny_teacher_directory):
    with pytest.raises(InputError, match="holds no checkpoint; train first"):
        read_trained_student(untrained, teacher_directory=tiny_teacher_directory)


def test_adapters_stand_beside_what_peft_opens(untrained, tmp_path):
    def base(directory):
        student = {"init": "directory", "directory": str(directory), "lora": {"rank": 2}}
        return base_of_adapters(Config.model_validate(untrained.model_dump(mode="json") | {"student": student}))

    assert base(tmp_path) == str(tmp_path)
    assert base("org/model") == "org/model"
    assert base("org/model/file.gguf") is None
    assert base_of_adapters(untrained) is None
