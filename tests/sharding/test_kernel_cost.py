import numpy as np
import pytest

from atkd_jax.sharding.chips import CHIPS
from atkd_jax.sharding.compiled_text import parse_program
from atkd_jax.sharding.kernel_cost import _visited, kernel_cost

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


def cost_of(kind, suffix, width=8, chip=CHIP):
    text = CALLS.replace("{kind}", kind).replace("{suffix}", suffix).replace("{width}", str(width))
    program = parse_program(text)
    entry = program.computations[program.entry]
    (call,) = (each for each in entry.values() if each.opcode == "custom-call")
    assert call.op_name == "jit(step)/splash"
    return kernel_cost(call, [entry[name] for name in call.operands], chip=chip)


SCORES = 8 * 36 * 512 * 512


@pytest.mark.parametrize(("kind", "suffix", "products"), [("fwd", "", 2), ("dq", "_dq", 3), ("dkv", "_dkv", 4)])
def test_the_blocks_below_the_diagonal_count_and_no_others(kind, suffix, products):
    assert cost_of(kind, suffix).flops == products * 2 * 64 * SCORES


def test_cycles_are_those_of_what_takes_longest():
    # 14 operations a score, 4,096 in a cycle; four products of a head that fills half of a unit of 128.
    assert cost_of("fwd", "").cycles == 14 * SCORES / 4096
    peak_in_a_cycle = 2 * 8 * 128**2
    assert cost_of("dkv", "_dkv", chip=CHIPS["v5p"]).cycles == pytest.approx(4 * 2 * 128 * SCORES / peak_in_a_cycle)


def test_traffic_is_blocks_of_the_other_side_and_a_row_of_lanes_each_for_segments_and_places():
    own, others = 8 * 4096 * 64 * 2, SCORES / 512 * 64 * 2
    assert cost_of("dkv", "_dkv").hbm_bytes == 2 * (own + others)
    assert cost_of("fwd", "").hbm_bytes == 2 * (own + others) + 2 * 8 * 4096 * 128 * 4


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (2, 8), (6, 12), (8, 4)])
def test_blocks_are_those_that_a_mask_leaves(rows, columns):
    # A block of 24 / rows queries and 24 / columns keys is left where any of its pairs is.
    pairs = np.tri(24, dtype=bool).reshape(rows, 24 // rows, columns, 24 // columns)
    blocks = pairs.any(axis=(1, 3))
    assert _visited(rows, columns, (1, rows, columns), by_keys=False) == blocks.sum()
    assert _visited(rows, columns, (1, rows, columns), by_keys=True) == blocks.sum()
    assert _visited(rows, columns, (1, rows, 2), by_keys=False) == np.minimum(blocks.sum(axis=1), 2).sum()
    assert _visited(rows, columns, (1, 1, columns), by_keys=True) == np.minimum(blocks.sum(axis=0), 1).sum()
