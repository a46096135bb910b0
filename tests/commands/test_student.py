import jax
import numpy as np
import pytest
from flax import nnx

from atkd_jax.commands.student import abstract_decoder, read_trained_student, student_shape
from atkd_jax.config import StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model, read_config
from atkd_jax.models import SIZES, sized_config


@pytest.fixture
def shape(tiny_teacher_directory):
    return read_config(tiny_teacher_directory)


@pytest.mark.parametrize("values", [{"layers": 2}, {"keep_layers": (0, 3)}])
def test_a_pruned_student_has_fewer_layers_and_nothing_else(values, shape):
    student = student_shape(StudentConfig(**values), teacher=shape)
    assert student.num_layers == 2
    assert student.width == shape.width


def test_the_other_starts_have_their_own_shape(shape, tiny_teacher_directory):
    name = next(iter(SIZES))
    scratch = StudentConfig(init="scratch", size=name)
    assert student_shape(scratch, teacher=shape) == sized_config(name, like=shape)
    directory = StudentConfig(init="directory", directory=tiny_teacher_directory)
    assert student_shape(directory, teacher=shape) == shape


def test_an_abstract_decoder_allocates_nothing(shape):
    params = nnx.state(abstract_decoder(shape, dtype="float32", param_dtype="bfloat16"))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(params))


def test_the_trained_student_is_the_checkpoints(trained, shape, tiny_teacher_directory):
    student, step = read_trained_student(trained, teacher=shape)
    assert step == 3
    teacher = load_model(tiny_teacher_directory)
    np.testing.assert_allclose(student.embedding[...], 1.5 * teacher.embedding[...])
    assert student.config.num_layers == 2


def test_a_run_without_a_checkpoint_is_named(untrained, shape):
    with pytest.raises(InputError, match="holds no checkpoint; train first"):
        read_trained_student(untrained, teacher=shape)
