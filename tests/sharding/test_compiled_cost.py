import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from atkd_jax.sharding import make_mesh
from atkd_jax.sharding.chips import CHIPS
from atkd_jax.sharding.collectives import Traffic
from atkd_jax.sharding.compiled_cost import StepCost, step_cost
from atkd_jax.sharding.compiled_text import parse_program


def traffic(seconds, is_async):
    return Traffic("all-gather", "fsdp", 1, 1.0, seconds, is_async, ())


@pytest.mark.parametrize(
    ("collectives", "step", "best"),
    [
        ([], 2.0, 1.0),
        ([traffic(0.5, False)], 2.5, 1.0),
        ([traffic(0.5, True)], 2.0, 1.0),
        ([traffic(3.0, True), traffic(0.5, False)], 3.5, 3.5),
    ],
)
def test_what_runs_beside_other_work_counts_where_it_takes_longer(collectives, step, best):
    cost = StepCost(flops=1.0, hbm_bytes=1.0, cycle_seconds=2.0, roofline_seconds=1.0, collectives=collectives)
    assert (cost.step_seconds, cost.best_seconds) == (step, best)


def test_a_layered_step_costs_its_layers():
    mesh = make_mesh(fsdp=8)
    weights = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    chip = CHIPS["v5e"]

    def layers(x, weights):
        return jax.lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)[0]

    program = parse_program(jax.jit(layers).lower(x, weights).compile().as_text())
    cost = step_cost(program, chip=chip, devices=list(mesh.devices.flat), meshes={"": mesh}, turns=id)
    assert cost.flops == 6 * 2 * 32 * 64 * 64 / 8
    gathers = [each for each in cost.collectives if each.kind == "all-gather"]
    assert sum(each.num_bytes for each in gathers) == 6 * 4 * 64 * 64
    assert {each.axes for each in gathers} == {"fsdp"}
    # This machine's compiler gives no cycles, so that the roofline stands in for them.
    assert cost.cycle_seconds == pytest.approx(cost.roofline_seconds)
    assert cost.roofline_seconds >= cost.hbm_bytes / chip.hbm_bytes_per_second * 0.99
