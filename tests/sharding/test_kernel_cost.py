import pytest

from atkd_jax.sharding.chips import CHIPS
from atkd_jax.sharding.compiled_text import parse_program
from atkd_jax.sharding.kernel_cost import kernel_cost

CHIP = CHIPS["v6e"]
# Lines as the TPU's compiler writes them, but for the kernel itself: 2 x 4 heads of 64, 4,096 tokens, blocks of 512.
CALLS = r"""
ENTRY %main (q: bf16[2,4,4096,64], k: bf16[2,4096,64], v: bf16[2,4096,64]) -> bf16[2,4,4096,64] {
  %next = s8[1,8,{width}] constant(0)
  %q = bf16[2,4,4096,64]{3,2,1,0} parameter(0)
  %k = bf16[2,4096,64]{2,1,0} parameter(1)
  %v = bf16[2,4096,64]{2,1,0} parameter(2)
  %splash_mqa_{kind}_segmented_no_residuals.1 = (f32[2,512,64]{2,1,0}, bf16[2,4,4096,64]{3,2,1,0}) custom-call(%next, %q, %k, %v), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q{suffix}\": 512, \"block_kv{suffix}\": 512, \"use_fused_bwd_kernel\": false}"
}}, metadata={op_name="jit(step)/splash"}
}
"""  # noqa: E501


def cost_of(kind, suffix, width=8):
    text = CALLS.replace("{kind}", kind).replace("{suffix}", suffix).replace("{width}", str(width))
    program = parse_program(text)
    entry = program.computations[program.entry]
    (call,) = (each for each in entry.values() if each.opcode == "custom-call")
    assert call.op_name == "jit(step)/splash"
    return kernel_cost(call, [entry[name] for name in call.operands], chip=CHIP)


@pytest.mark.parametrize(("kind", "suffix", "products"), [("fwd", "", 2), ("dq", "_dq", 3), ("dkv", "_dkv", 4)])
def test_the_blocks_below_the_diagonal_count_and_no_others(kind, suffix, products):
    cost = cost_of(kind, suffix)
    assert cost.flops == products * 2 * 64 * (8 * 36 * 512 * 512)
    assert cost.cycles >= cost.flops / CHIP.flops_per_second * CHIP.clock_hz


def test_a_window_cuts_the_grid():
    # The first row of blocks has one, the others two.
    assert cost_of("fwd", "", width=2).flops == 2 * 2 * 64 * (8 * 15 * 512 * 512)
