import jax
import jax.numpy as jnp
import pytest

from atkd_jax.sharding.compiled_text import Array, parse_program, runs, trip_count

# As the TPU's compiler writes, shortened.
TEXT = """HloModule jit_f, is_scheduled=true

%fused (param_0.1: bf16[8,128]) -> bf16[8,128] {
  %param_0.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %negate.1 = bf16[8,128]{1,0:T(8,128)(2,1)} negate(%param_0.1)
}

%condition (p: (s32[], bf16[8,128])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %gte.1 = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%gte.1, %constant.5), direction=LT, metadata={op_name="jit(f)/while/cond/lt"}
}

%body (q: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %q = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %gte.3 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%q), index=1
  %fusion.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%gte.3), kind=kLoop, calls=%fused
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%gte.3, %fusion.1)
}

ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %t = (s32[], bf16[8,128]{1,0}) tuple(%a, %a)
  %while.1 = (s32[]{:T(128)}, /*index=1*/bf16[8,128]{1,0:T(8,128)(2,1)}) while(%t), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
  ROOT %out = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501 (a line of it is a line)


def unknown(loop):
    raise AssertionError(loop)


def test_instructions_are_taken_apart():
    program = parse_program(TEXT)
    assert program.entry == "main"
    loop = program.computations["main"]["while.1"]
    assert (loop.opcode, loop.operands, loop.op_name) == ("while", ["t"], "jit(f)/while")
    assert loop.arrays == (Array("s32", (), False), Array("bf16", (8, 128), False))
    assert loop.arrays[1].num_bytes == 2 * 8 * 128
    fusion = program.computations["body"]["fusion.1"]
    assert fusion.arrays[0].is_on_chip
    assert set(program.fused(fusion)) == {"param_0.1", "negate.1"}


def test_a_loop_counts_as_often_as_it_turns():
    program = parse_program(TEXT)
    assert trip_count(program, program.computations["main"]["while.1"]) == 12
    assert {run.instruction.name: run.times for run in runs(program, turns=unknown)}["fusion.1"] == 12


def test_a_bound_that_is_computed_is_asked_for():
    text = TEXT.replace("%constant.5 = s32[]{:T(128)} constant(12)", "%constant.5 = s32[]{:T(128)} copy(%p)")
    times = {run.instruction.name: run.times for run in runs(parse_program(text), turns=lambda loop: 7)}
    assert times["fusion.1"] == 7


def test_nested_loops_of_this_machines_compiler_multiply():
    def step(x, _):
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ y), x), None

    text = jax.jit(lambda x: jax.lax.scan(step, x, length=5)[0]).lower(jnp.ones((64, 64))).compile().as_text()
    program = parse_program(text)
    dots = [run for run in runs(program, turns=unknown) if "dot_general" in run.instruction.op_name]
    assert {run.times for run in dots} == {15}


def test_a_text_without_a_beginning_is_refused():
    with pytest.raises(ValueError, match="the text must have an ENTRY computation, got none"):
        parse_program("HloModule jit_f\n")
