import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.config import Config, StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model
from atkd_jax.training.student import build_student, fetched_student


@pytest.fixture(scope="module")
def teacher(tiny_teacher_directory):
    return load_model(tiny_teacher_directory, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)


def build(teacher, **settings):
    return build_student(StudentConfig(**settings), teacher=teacher, dtype=jnp.dtype("float32"), remat="none", seed=0)


def test_pruning_keeps_the_listed_layers_in_float32(teacher):
    student = build(teacher, init="prune", keep_layers=(0, 2, 3))
    assert student.config.num_layers == 3
    ours, theirs = (model.layers.mlp.up.kernel[...] for model in (student, teacher))
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, theirs[np.array([0, 2, 3])].astype(jnp.float32))


def test_evenly_spaced_layers_hold_both_ends(teacher):
    student = build(teacher, init="prune", layers=2)
    np.testing.assert_array_equal(
        student.layers.mlp.up.kernel[...], teacher.layers.mlp.up.kernel[...][np.array([0, 3])].astype(jnp.float32)
    )


def test_a_directory_gives_its_weights(teacher, tiny_teacher_directory):
    student = build(teacher, init="directory", directory=tiny_teacher_directory)
    wide = load_model(tiny_teacher_directory, dtype=jnp.float32, param_dtype=jnp.float32)
    for ours, theirs in zip(jax.tree.leaves(nnx.state(student)), jax.tree.leaves(nnx.state(wide)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_from_scratch_takes_the_teachers_vocabulary(teacher):
    student = build(teacher, init="scratch", size="0.3m")
    assert student.config.vocab_size == teacher.config.vocab_size


def test_layers_that_the_teacher_does_not_have_are_refused(teacher):
    with pytest.raises(InputError, match="4"):
        build(teacher, init="prune", keep_layers=(0, 4))


def test_a_hub_id_is_looked_for_in_the_cache(tmp_path):
    config = Config(cache_dir=tmp_path, student=StudentConfig(init="directory", directory="org/small"))
    fetched = tmp_path / "models" / "org--small"
    fetched.mkdir(parents=True)
    assert fetched_student(config).directory == fetched
    pruned = Config(student=StudentConfig(layers=3))
    assert fetched_student(pruned) is pruned.student
