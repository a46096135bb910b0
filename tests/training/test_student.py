import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.config_student import LoraConfig, StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model
from atkd_jax.models import SIZES, sized_config, split_trained
from atkd_jax.training.student import build_student, student_config, student_directory


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


@pytest.mark.parametrize(
    "values", [{"layers": 2}, {"keep_layers": (0, 3)}, {"layers": 2, "layer_choice": "block_influence"}]
)
def test_a_pruned_students_shape_needs_no_weights(values, teacher):
    shape = student_config(StudentConfig(**values), teacher=teacher.config)
    assert shape == dataclasses.replace(teacher.config, num_layers=2)
    narrow = student_config(StudentConfig(**values, mlp_width=24, kv_heads=1), teacher=teacher.config)
    assert narrow == dataclasses.replace(shape, mlp_width=24, num_kv_heads=1, num_heads=2)


def test_the_other_starts_have_their_own_shape(teacher, tiny_teacher_directory):
    name = next(iter(SIZES))
    scratch = StudentConfig(init="scratch", size=name)
    assert student_config(scratch, teacher=teacher.config) == sized_config(name, like=teacher.config)
    directory = StudentConfig(init="directory", directory=tiny_teacher_directory)
    assert student_config(directory, teacher=teacher.config) == teacher.config


@pytest.mark.parametrize("values", [{"mlp_width": 65}, {"kv_heads": 3}])
def test_more_than_the_teacher_has_is_refused(values, teacher):
    (name,) = values
    with pytest.raises(InputError, match=rf"student.{name} must be at most the teacher's"):
        build(teacher, **values)


def test_a_mixture_of_experts_is_no_student(teacher):
    experts = dataclasses.replace(teacher.config, family="mixtral", num_experts=4, experts_per_token=2)
    with pytest.raises(InputError, match="computed here as a teacher only, but the student's family is mixtral with 4"):
        student_config(StudentConfig(layers=2), teacher=experts)
    dense = student_config(StudentConfig(init="scratch", size="1m"), teacher=experts)
    assert (dense.family, dense.num_experts) == ("mistral", 0)


def test_a_shape_that_its_family_cannot_write_down_is_refused_before_it_is_trained(teacher):
    olmo = dataclasses.replace(
        teacher.config,
        family="gpt2",
        norm="layer",
        positions="learned",
        qkv_bias=True,
        output_bias=True,
        gated_mlp=False,
        mlp_bias=True,
        num_kv_heads=4,
        activation="gelu_tanh",
    )
    assert student_config(StudentConfig(layers=2), teacher=olmo).num_layers == 2
    with pytest.raises(InputError, match="num_heads times head_dim must be width in the family gpt2"):
        student_config(StudentConfig(kv_heads=2), teacher=olmo)


def test_adapters_change_nothing_at_first_and_what_they_stand_beside_is_frozen(teacher):
    plain, adapted = build(teacher, layers=2), build(teacher, layers=2, lora=LoraConfig(rank=4))
    tokens = jnp.arange(12)[None]
    np.testing.assert_allclose(adapted(tokens), plain(tokens), rtol=1e-6, atol=1e-6)
    _, trained, (frozen,) = split_trained(adapted)
    assert len(jax.tree.leaves(trained)) == 14
    for ours, theirs in zip(jax.tree.leaves(frozen), jax.tree.leaves(nnx.state(plain)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_that_the_teacher_does_not_have_are_refused(teacher):
    with pytest.raises(InputError, match="4"):
        build(teacher, init="prune", keep_layers=(0, 4))


def test_a_hub_id_is_looked_for_in_the_cache(tmp_path):
    fetched = tmp_path / "models" / "org--small"
    fetched.mkdir(parents=True)
    config = StudentConfig(init="directory", directory="org/small")
    assert student_directory(config, cache_dir=tmp_path) == fetched
