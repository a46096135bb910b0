import jax
import jax.numpy as jnp
import pytest

from atkd_jax.sharding.compiled_text import parse_program, runs
from atkd_jax.sharding.instruction_cost import estimated_cycles, flops_of, traffic_of

# Batched products on TPUs: 8 of [512, 64] and [64, 512] as a window of which one place meets an element.
CONVOLUTIONS = """HloModule jit_f
ENTRY %main (a: f32[8,512,64], b: f32[8,64,512], c: bf16[4096,16384], d: bf16[16384,128]) -> f32[8,512,512] {
  %a = f32[8,512,64]{2,1,0} parameter(0)
  %b = f32[8,64,512]{2,1,0} parameter(1)
  %c = bf16[4096,16384]{1,0:T(8,128)(2,1)} parameter(2)
  %d = bf16[16384,128]{1,0:T(8,128)(2,1)S(1)} parameter(3)
  %e = f32[4096,128]{1,0} convolution(%c, %d), dim_labels=bf_io->bf, backend_config={"window_config":{"estimated_cycles":"9102"}}
  ROOT %f = f32[8,512,512]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}
"""  # noqa: E501


def instruction(program, name):
    return program.computations["main"][name], program.computations["main"]


def test_convolutions_count_what_meets():
    program = parse_program(CONVOLUTIONS)
    assert flops_of(program, *instruction(program, "e")) == 2 * 4096 * 16384 * 128
    assert flops_of(program, *instruction(program, "f")) == 2 * 8 * 512 * 64 * 512


def test_what_stays_in_fast_memory_is_no_traffic():
    program = parse_program(CONVOLUTIONS)
    assert traffic_of(program, *instruction(program, "e")) == 2 * 4096 * 16384 + 4 * 4096 * 128
    assert estimated_cycles(instruction(program, "e")[0]) == 9102
    assert estimated_cycles(instruction(program, "f")[0]) is None
    unknown = parse_program(CONVOLUTIONS.replace("9102", str(2**63 - 1)))
    assert estimated_cycles(instruction(unknown, "e")[0]) is None


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: jnp.tanh(x @ w), [(48, 64), (64, 80)]),
        (lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k), [(2, 24, 3, 16), (2, 40, 3, 16)]),
        (lambda x: jax.lax.conv_general_dilated(x, jnp.ones((4, 3, 5, 5)), (2, 1), ((1, 2), (0, 1))), [(2, 3, 20, 17)]),
    ],
)
def test_products_are_counted_as_the_compiler_counts_them(function, shapes):
    compiled = jax.jit(function).lower(*(jnp.ones(shape) for shape in shapes)).compile()
    program = parse_program(compiled.as_text())
    found = [
        flops_of(program, run.instruction, program.computations[run.computation]) for run in runs(program, turns=id)
    ]
    # The compiler counts elementwise operations, a few of each result, as well.
    assert compiled.cost_analysis()["flops"] == pytest.approx(sum(found), rel=0.03)


def test_a_slice_of_a_stack_is_the_traffic_of_the_slice():
    def layer(x, weight):
        return x + weight, None

    stack = jnp.ones((50, 4096))
    compiled = jax.jit(lambda x, stack: jax.lax.scan(layer, x, stack)[0]).lower(stack[0], stack).compile()
    program = parse_program(compiled.as_text())
    moved = sum(
        run.times * traffic_of(program, run.instruction, program.computations[run.computation])
        for run in runs(program, turns=id)
        if run.instruction.opcode == "fusion"
    )
    # Each turn reads the sum and a slice, and writes the sum.
    assert 50 * 3 * 4 * 4096 <= moved < 1.2 * 50 * 3 * 4 * 4096
