"""What a compiled step costs on one chip: arithmetic, memory traffic, the compiler's cycles, and collectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from atkd_jax.sharding.chips import Chip
from atkd_jax.sharding.collectives import KINDS, Collective, Traffic, collectives_of, summed
from atkd_jax.sharding.compiled_text import Instruction, Program, runs
from atkd_jax.sharding.instruction_cost import estimated_cycles, flops_of, traffic_of
from atkd_jax.sharding.kernel_cost import kernel_cost

# These move nothing, or are accounted for where their work is done.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_FREE |= {"copy-start", "copy-done", "partition-id", "replica-id", "after-all", "opt-barrier"}
_FREE |= {f"{kind}{end}" for kind in KINDS for end in ("", "-start", "-done")}


class StepCost(NamedTuple):
    """One step on one chip.

    Attributes:
        flops: of matrix products and convolutions, what is computed again for the backward pass included.
        hbm_bytes: read and written by the instructions, where they do not stay in fast memory, and no more than the
            chip can move in the cycles that the compiler expects.
        cycle_seconds: the compiler's own estimate of its instructions' cycles, by the chip's clock; of calls of
            attention's kernels, which it has none of, that of `kernel_cost`.
        roofline_seconds: the larger of arithmetic and memory traffic at the data sheet's rates, per instruction.
        collectives: the largest first.
    """

    flops: float
    hbm_bytes: float
    cycle_seconds: float
    roofline_seconds: float
    collectives: list[Traffic]

    @property
    def blocking_seconds(self) -> float:
        """Of collectives that nothing else runs beside."""
        return sum(each.seconds for each in self.collectives if not each.is_async)

    @property
    def step_seconds(self) -> float:
        """The compiler's cycles, or asynchronous collectives where these take longer, and the blocking ones."""
        hidden = sum(each.seconds for each in self.collectives if each.is_async)
        return max(self.cycle_seconds, hidden) + self.blocking_seconds

    @property
    def best_seconds(self) -> float:
        """The same with the roofline in place of the cycles, and every collective hidden as far as it can be."""
        return max(self.roofline_seconds, sum(each.seconds for each in self.collectives))


def step_cost(
    program: Program,
    *,
    chip: Chip,
    devices: Sequence[Any],
    meshes: dict[str, Mesh],
    turns: Callable[[Instruction], int],
) -> StepCost:
    """Returns the cost of a compiled step on one chip.

    Args:
        program: of the step.
        chip: of the topology.
        devices: in the mesh's flat order, with their coordinates.
        meshes: for `axes_of_group`.
        turns: for `runs`.
    """
    flops = hbm_bytes = cycles = roofline = 0.0
    collectives: list[Collective] = []
    for run in runs(program, turns=turns):
        collectives += collectives_of(program, run, len(devices))
        if run.instruction.opcode in _FREE or run.instruction.name.startswith("async-collective-"):
            continue
        holder = program.computations[run.computation]
        operands = [holder[name] for name in run.instruction.operands if name in holder]
        kernel = kernel_cost(run.instruction, operands, chip=chip)
        estimated: float | None
        if kernel is not None:
            own_flops, own_bytes, estimated = kernel
        else:
            own_flops = flops_of(program, run.instruction, holder)
            own_bytes = traffic_of(program, run.instruction, holder)
            estimated = estimated_cycles(run.instruction)
        if estimated is not None:
            # Arrays that a fusion reads only in part are counted whole where their text does not tell.
            own_bytes = min(own_bytes, estimated / chip.clock_hz * chip.hbm_bytes_per_second)
        floor = max(own_flops / chip.flops_per_second, own_bytes / chip.hbm_bytes_per_second)
        flops += run.times * own_flops
        hbm_bytes += run.times * own_bytes
        roofline += run.times * floor
        cycles += run.times * (floor * chip.clock_hz if estimated is None else estimated)
    traffic = summed(collectives, chip=chip, devices=devices, meshes=meshes)
    return StepCost(flops, hbm_bytes, cycles / chip.clock_hz, roofline, traffic)
