from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from linear_cases import assert_same, logits_of, random_case, value_and_gradients

from atkd_jax import losses

WEIGHTS = {"divergence": 1.5, "cross_entropy": 1.0}


def case_of(seed=0, shape=(8, 3), teacher_words=17):
    case = random_case(seed, shape)
    rng = np.random.default_rng(seed + 100)
    case["teacher_head"] = rng.normal(size=(6, teacher_words)).astype(np.float32)
    return case


def whole(case, softcap=None, temperature=1.0, vocab_size=None):
    student = logits_of(case, "student", softcap=softcap, vocab_size=vocab_size)
    distance = losses.universal_logit(
        student_logits=student, teacher_logits=logits_of(case, "teacher"), temperature=temperature
    )
    hard = losses.cross_entropy(student_logits=student, targets=case["targets"])
    return jnp.sum(jnp.where(case["mask"], 1.5 * distance + hard, 0))


def summed(case, **options):
    weights = {name: jnp.full(case["mask"].shape, weight) for name, weight in WEIGHTS.items()}
    return losses.linear_universal_logit_sum(**case, weights=weights, **options)[0]


@pytest.mark.parametrize("chunk_tokens", [1, 5, 64])
@pytest.mark.parametrize("teacher_words", [7, 17])
def test_value_and_gradient_are_those_of_the_whole_logits(chunk_tokens, teacher_words):
    case = case_of(teacher_words=teacher_words)
    mine = value_and_gradients(
        lambda **case: summed(case, chunk_tokens=chunk_tokens, student_softcap=3.0, temperature=2.0), case
    )
    assert_same(mine, value_and_gradients(lambda **case: whole(case, softcap=3.0, temperature=2.0), case))


def test_padded_columns_and_uncounted_tokens_have_no_part():
    case = case_of()
    expected = value_and_gradients(lambda **case: whole(case), case)
    dirty = dict(case)
    for name in ("student", "teacher"):
        dirty[f"{name}_hidden"] = np.where(case["mask"][..., None], case[f"{name}_hidden"], np.nan)
        dirty[f"{name}_head"] = np.pad(case[f"{name}_head"], ((0, 0), (0, 3)), constant_values=np.nan)
    mine = value_and_gradients(lambda **case: summed(case, vocab_size=11, teacher_vocab_size=17, chunk_tokens=4), dirty)
    by_head = np.asarray(mine[1]["student_head"])
    assert not by_head[:, 11:].any()
    mine[1]["student_head"] = by_head[:, :11]
    assert_same(mine, expected)


@pytest.mark.parametrize("mesh_shape", [(8, 1), (2, 4)])
def test_every_mesh_gives_one_devices_value_and_gradient(mesh_shape):
    """11 and 17 words in columns that the devices divide; a chunk of 3 tokens, which they do not."""
    case = case_of(4)
    expected = value_and_gradients(lambda **case: whole(case), case)
    padded = dict(case)
    for name in ("student_head", "teacher_head"):
        words = case[name].shape[1]
        padded[name] = np.pad(case[name], ((0, 0), (0, -words % mesh_shape[1])), constant_values=7.0)
    mesh = jax.make_mesh(mesh_shape, ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {name: PartitionSpec(None, "tensor") if "head" in name else PartitionSpec("data") for name in case}
    options = {"vocab_axis": "tensor", "token_axes": ("data",), "chunk_tokens": 3}

    @partial(jax.shard_map, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec())
    def local(case):
        return summed(case, vocab_size=11, teacher_vocab_size=17, **options)

    mine = value_and_gradients(lambda **case: local(case), padded)
    mine[1]["student_head"] = np.asarray(mine[1]["student_head"])[:, :11]
    assert_same(mine, expected)


def test_an_unknown_weight_is_refused():
    case = case_of()
    with pytest.raises(ValueError, match="a weight's name must be 'divergence' or 'cross_entropy', got 'target_kd'"):
        losses.linear_universal_logit_sum(**case, weights={"target_kd": jnp.ones((8, 3))})
