"""Tokens over one axis and the heads' columns over another: one device's value and gradient, and no gathered logits."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from linear_cases import assert_same, differentiated, random_case, value_and_gradients, value_and_gradients_of

from atkd_jax import losses

ROWS, COLUMNS = PartitionSpec("data"), PartitionSpec(None, "tensor")
MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]


def split_over(mesh_shape, function, case, *, check_vma=True):
    """Returns `function` of a case whose tokens and words are split over the mesh, with a scalar that all share."""
    mesh = jax.make_mesh(mesh_shape, ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {name: COLUMNS if name.endswith("head") else ROWS for name in case}
    axes = {"vocab_axis": "tensor", "token_axes": ("data",), "block_words": 5, "chunk_tokens": 2}

    @partial(jax.shard_map, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(), check_vma=check_vma)
    def local(case):
        return function(**case, **axes)

    return lambda **case: local(case)


def atkd(keep_logits, divergence, **case):
    loss, diagnostics = losses.linear_atkd(**case, keep_logits=keep_logits, divergence=divergence)
    return loss + 0 * sum(diagnostics.values())


def divergence(keep_logits, name, **case):
    targets = case.pop("targets")
    needed = {"targets": targets} if name == "cross_entropy" else {}
    return losses.linear_divergence(**case, **needed, divergence=name, keep_logits=keep_logits)[0]


@cache
def on_one_device(function, keep_logits):
    return value_and_gradients(partial(function, keep_logits), random_case(9, (8, 3), vocabulary=48))


@pytest.mark.parametrize(
    ("mesh_shape", "keep_logits"), [*((shape, True) for shape in MESHES), ((4, 2), False), ((1, 8), False)]
)
@pytest.mark.parametrize("function", [partial(atkd, divergence=None), partial(divergence, name="generalized_jsd")])
def test_one_devices_value_and_gradient_and_no_gathered_logits(mesh_shape, keep_logits, function):
    case = random_case(9, (8, 3), vocabulary=48)
    sharded = split_over(mesh_shape, partial(function, keep_logits), case)
    arrays = differentiated(case), {name: case[name] for name in case.keys() - differentiated(case).keys()}
    program = value_and_gradients_of(sharded).lower(*arrays).compile()
    assert_same(program(*arrays), on_one_device(function, keep_logits))
    words = {48, 48 // mesh_shape[1]}
    gathered = [line for line in program.as_text().splitlines() if "all-gather" in line and "= f32" in line]
    assert not [line for line in gathered if any(f",{count}]" in line for count in words)]


@cache
def of_43_words():
    function = partial(atkd, True, "skewed_reverse_kl", student_softcap=3.0)
    return value_and_gradients(function, random_case(11, (8, 3), vocabulary=43))


@pytest.mark.parametrize(
    ("mesh_shape", "check_vma"), [*((shape, True) for shape in MESHES), ((8, 1), False), ((2, 4), False)]
)
def test_words_that_the_devices_do_not_divide(mesh_shape, check_vma):
    """43 words in 48 columns; the last devices hold padding, which has no part in anything."""
    case = random_case(11, (8, 3), vocabulary=43)
    padded = dict(case)
    for name in ("student_head", "teacher_head"):
        padded[name] = np.pad(case[name], ((0, 0), (0, 5)), constant_values=7.0)
    function = partial(atkd, True, "skewed_reverse_kl")
    sharded = split_over(mesh_shape, partial(function, vocab_size=43, student_softcap=3.0), padded, check_vma=check_vma)
    mine = value_and_gradients(sharded, padded)
    plain = of_43_words()
    assert not np.asarray(mine[1]["student_head"])[:, 43:].any()
    mine[1]["student_head"] = np.asarray(mine[1]["student_head"])[:, :43]
    assert_same(mine, plain)


def test_a_gradient_within_the_mapped_function():
    case = random_case(12, (8, 3), vocabulary=16)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {name: COLUMNS if name.endswith("head") else ROWS for name in case}
    student = {name: specs[name] for name in differentiated(case)}

    @partial(jax.shard_map, mesh=mesh, in_specs=(specs,), out_specs=(PartitionSpec(), student))
    def local(case):
        rest = {name: array for name, array in case.items() if name not in student}
        axes = {"vocab_axis": "tensor", "token_axes": ("data",)}
        return jax.value_and_grad(lambda own: losses.linear_atkd(**own, **rest, **axes)[0])(
            {name: case[name] for name in student}
        )

    assert_same(jax.jit(local)(case), value_and_gradients(lambda **case: losses.linear_atkd(**case)[0], case))
