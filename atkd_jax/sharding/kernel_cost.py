"""What a call of a splash attention kernel costs, of which the TPU's compiler tells nothing.

Counted are the blocks that a causal mask, and a window as far as the grid is cut to it, leave of the scores. Their time
is that of the matrix products at the chip's peak, of the vector units' work, or of the traffic, whichever is the
longest: a model of ours, and no estimate by the compiler.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from atkd_jax.sharding.chips import Chip
from atkd_jax.sharding.compiled_text import Instruction

# By kernel: products of a score's row and column of head_dim, and operations of the vector units on a score: two
# comparisons of segments and places, masking, the running maximum, exponential, sums and casts; going back, the product
# with what the rows share.
_WORK = {"fwd": (2, 14), "dq": (3, 16), "dkv": (4, 18)}
# Lanes of a register, and with its rows, and how many registers are worked on in a cycle, the vector units' operations.
_LANES = 128
_VECTOR_OPERATIONS = _LANES * 8 * 4


class KernelCost(NamedTuple):
    """Of one call on one chip: operations of its matrix products, bytes of its traffic, cycles."""

    flops: float
    hbm_bytes: float
    cycles: float


def kernel_cost(instruction: Instruction, operands: list[Instruction], *, chip: Chip) -> KernelCost | None:
    """Returns the cost of a call of a splash kernel; None for another instruction.

    Args:
        instruction: of a compiled program.
        operands: of it.
        chip: which it runs on; a kernel's heads are shared out between a chip's cores.
    """
    named = re.match(r"splash_\w*?(fwd|dq|dkv)_", instruction.name)
    if named is None or instruction.opcode != "custom-call":
        return None
    kind = named[1]
    products, operations = _WORK[kind]
    arrays = [array for operand in operands for array in operand.arrays]
    grid = arrays[0].dims
    query, key = [array for array in arrays if array.dtype in ("bf16", "f32")][:2]
    *heads, queries, width = query.dims
    keys = key.dims[-2]
    block_of = dict(re.findall(r'\\"(block_\w+)\\": (\d+)', instruction.attributes))
    suffix = "" if kind == "fwd" else f"_{kind}"
    rows, columns = (int(block_of[f"block_{side}{suffix}"]) for side in ("q", "kv"))
    visited = _visited(queries // rows, keys // columns, grid, by_keys=kind == "dkv")
    scores = math.prod(heads) * visited * rows * columns
    flops = 2.0 * products * width * scores
    # Of a head that is narrower than a matrix unit, the rest of the unit works on zeros.
    padded = -(-width // chip.matrix_side) * chip.matrix_side / width
    item = query.num_bytes / math.prod(query.dims)
    # A block of one side stays while those of the other come, two arrays of each.
    longest = columns if kind == "dkv" else rows
    hbm_bytes = 2 * item * width * (scores / longest + math.prod(heads) * queries)
    # Segments and places of the queries, and what the next pass needs of a row, take a register's width each.
    rows_of_lanes = (0 if kind == "dkv" else 2) + instruction.name.count("_segmented_residuals")
    hbm_bytes += 4 * _LANES * rows_of_lanes * math.prod(heads) * queries
    cycles = max(
        padded * flops / chip.flops_per_second * chip.clock_hz,
        operations * scores / (_VECTOR_OPERATIONS * chip.cores),
        hbm_bytes / chip.hbm_bytes_per_second * chip.clock_hz,
    )
    return KernelCost(flops, hbm_bytes, cycles)


def _visited(rows: int, columns: int, grid: tuple[int, ...], *, by_keys: bool) -> int:
    """Returns how many blocks a causal mask leaves, in a row (a column, with `by_keys`) no more than the grid has."""
    if by_keys:
        return sum(min(grid[-2], rows - column * rows // columns) for column in range(columns))
    return sum(min(grid[-1], -(-(row + 1) * columns // rows)) for row in range(rows))
