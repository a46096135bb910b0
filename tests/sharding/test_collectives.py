from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from atkd_jax.sharding import make_mesh, make_meshes
from atkd_jax.sharding.chips import CHIPS
from atkd_jax.sharding.collectives import Collective, axes_of_group, collectives_of, replica_group, seconds_of, summed
from atkd_jax.sharding.compiled_text import Instruction, parse_program, runs

TORUS = [SimpleNamespace(id=0, coords=(x, y, z)) for x in range(4) for y in range(4) for z in range(8)]


def with_groups(text):
    return Instruction(
        "all-gather.1", "all-gather", (), "", f", channel_id=1, replica_groups={text}, dimensions={{0}}", False
    )


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("{{0,1,2},{3,4,5}}", (0, 1, 2)),
        ("{}", tuple(range(8))),
        ("[4,2]<=[8]", (0, 1)),
        ("[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", (0, 1, 2, 3)),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4)),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", (0, 2, 4, 6)),
    ],
)
def test_groups_are_read_in_every_form(text, group):
    assert replica_group(with_groups(text), 8) == group


def test_a_form_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match=r"unknown form of the groups of all-gather\.1"):
        replica_group(with_groups("somehow"), 8)


def test_a_group_is_named_by_the_axes_that_it_spans():
    meshes = make_meshes(fsdp=2, tensor=2, teacher_fsdp=8, teacher_tensor=1)
    named = {"": meshes.student, "teacher's ": meshes.teacher}
    assert axes_of_group((0, 1), named) == "tensor"
    assert axes_of_group((0, 2), named) == "fsdp"
    assert axes_of_group((1, 3, 5, 7), named) == "data+fsdp"
    assert axes_of_group(range(8), named) == "data+fsdp+tensor"
    assert axes_of_group((0, 3), named) == "part of fsdp+tensor"


@pytest.mark.parametrize(
    ("axes", "result", "kind", "over", "num_bytes"),
    [
        (("fsdp", None), (None, None), "all-gather", "fsdp", 4 * 64 * 32),
        (("fsdp", None), (None, "fsdp"), "all-to-all", "fsdp", 4 * 64 * 32 / 4),
    ],
)
def test_what_this_machines_compiler_inserts_is_found(axes, result, kind, over, num_bytes):
    mesh = make_mesh(fsdp=4, tensor=2)
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))
    moved = jax.jit(jnp.copy, out_shardings=NamedSharding(mesh, PartitionSpec(*result)))
    program = parse_program(moved.lower(x).compile().as_text())
    found = [each for run in runs(program, turns=id) for each in collectives_of(program, run, 8)]
    (one,) = [each for each in found if each.kind == kind]
    assert axes_of_group(one.group, {"": mesh}) == over
    assert one.num_bytes == num_bytes


def test_a_sum_over_two_axes_is_found():
    mesh = make_mesh(fsdp=4)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=sharding)
    program = parse_program(jax.jit(lambda x: jnp.sum(x, axis=0)).lower(x).compile().as_text())
    (one,) = [each for run in runs(program, turns=id) for each in collectives_of(program, run, 8)]
    assert (one.kind, one.num_bytes, axes_of_group(one.group, {"": mesh})) == ("all-reduce", 4 * 32, "data+fsdp")


def test_a_start_counts_its_result_alone():
    text = """HloModule jit_f
ENTRY %main (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %s = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%a), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %d = bf16[16,8]{1,0} all-gather-done(%s)
}
"""
    program = parse_program(text)
    (one,) = [each for run in runs(program, turns=id) for each in collectives_of(program, run, 8)]
    assert (one.kind, one.num_bytes, one.is_async) == ("all-gather", 2 * 16 * 8, True)


def collective(kind, group, num_bytes=9e9, is_async=False):
    return Collective(kind, num_bytes, 1, tuple(group), is_async, ((4,),), "")


def test_time_is_that_of_rings_along_the_axes_of_the_torus():
    chip = CHIPS["v5p"]
    along_z, along_yz = range(8), range(32)
    # 90e9 bytes a second each way, both ways round a closed ring.
    once = 7 / 8 * 9e9 / 180e9
    assert seconds_of(collective("all-gather", along_z), chip=chip, devices=TORUS) == pytest.approx(once)
    assert seconds_of(collective("all-reduce", along_z), chip=chip, devices=TORUS) == pytest.approx(2 * once)
    both = seconds_of(collective("all-gather", along_yz), chip=chip, devices=TORUS)
    assert both == pytest.approx(31 / 32 * 9e9 / 360e9)
    # An axis of four chips of v5e is a line.
    open_ended = seconds_of(collective("all-gather", along_z), chip=CHIPS["v5e"], devices=TORUS)
    assert open_ended == pytest.approx(7 / 8 * 9e9 / 45e9)


def test_collectives_are_summed_by_kind_and_axes():
    mesh = make_mesh(fsdp=4, tensor=2)
    collectives = [collective("all-gather", (0, 2, 4, 6)), collective("all-gather", (1, 3, 5, 7), 1e9)]
    collectives.append(collective("all-reduce", (0, 1), 1e3))
    first, second = summed(collectives, chip=CHIPS["v5p"], devices=TORUS[:8], meshes={"": mesh})
    assert (first.kind, first.axes, first.count, first.num_bytes) == ("all-gather", "fsdp", 2, 1e10)
    assert (second.kind, second.axes) == ("all-reduce", "tensor")
    assert np.isfinite(first.seconds)
