"""What one instruction of a compiled program costs: arithmetic, traffic with the chip's memory, estimated cycles."""

from __future__ import annotations

import math
import re

from atkd_jax.sharding.compiled_text import Array, Instruction, Program

Computation = dict[str, Instruction]


def estimated_cycles(instruction: Instruction) -> int | None:
    """Returns the cycles that the TPU's compiler expects; None where it says nothing, or the largest integer."""
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(found[1]) if found and int(found[1]) < 2**62 else None


def flops_of(program: Program, instruction: Instruction, holder: Computation) -> float:
    """Returns the operations of an instruction's matrix products, 2 for each multiplication and addition.

    Args:
        program: that it is of.
        instruction: a fusion counts with all that is fused into it.
        holder: the computation that it stands in.
    """
    fused = program.fused(instruction)
    total = sum(flops_of(program, inner, fused) for inner in fused.values())
    if instruction.opcode in ("convolution", "dot"):
        operands = [holder[name].arrays[0].dims for name in instruction.operands[:2]]
        products = _of_dot if instruction.opcode == "dot" else _of_convolution
        total += 2.0 * math.prod(instruction.arrays[0].dims) * products(instruction, *operands)
    return total


def _of_dot(instruction: Instruction, left: tuple[int, ...], _: tuple[int, ...]) -> float:
    """Returns how many products are summed for an element of the result."""
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    return math.prod(left[int(axis)] for axis in found[1].split(",") if axis) if found else 1


def _of_convolution(instruction: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Likewise, on average: TPUs have convolutions for batched products, most of whose window meets padding alone."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 1
    products = float(right[labels[2].index("i")])
    for number in range(sum(label.isdigit() for label in labels[2])):
        axes = [labels[place].index(str(number)) for place in (1, 2, 3)]
        sizes = (left[axes[0]], right[axes[1]], instruction.arrays[0].dims[axes[2]])
        products *= _meetings(instruction.attributes, number, *sizes) / max(sizes[2], 1)
    return products


def _meetings(attributes: str, number: int, inputs: int, window: int, results: int) -> int:
    """Returns how often a place of the window meets an element of the input, along one spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in text[1].split()) if text else {}

    def at(name: str, otherwise: str) -> str:
        return fields[name].split("x")[number] if name in fields else otherwise

    stride, spread, step = (int(at(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(at("pad", "0_0").split("_")[0])
    places = (result * stride + own * step - before for result in range(results) for own in range(window))
    return sum(1 for place in places if place >= 0 and place % spread == 0 and place // spread < inputs)


def traffic_of(program: Program, instruction: Instruction, holder: Computation) -> float:
    """Returns the bytes that an instruction reads from the chip's memory and writes to it.

    Of an array that only a slice is taken from, or written into, only the slice counts; what stays in fast memory does
    not. For arguments see `flops_of`.
    """
    operands = [holder[name] for name in instruction.operands if name in holder]
    fused = program.fused(instruction)
    if not fused:
        return _plain_traffic(instruction, operands)
    parameters = {int(each.arguments): each for each in fused.values() if each.opcode == "parameter"}
    read = sum(
        min(_read(program, fused, parameters[number].name), _off_chip(operand.arrays))
        for number, operand in enumerate(operands)
        if number in parameters
    )
    root = next(each for each in fused.values() if each.is_root)
    return read + min(_written(fused, root), _off_chip(instruction.arrays))


def _plain_traffic(instruction: Instruction, operands: list[Instruction]) -> float:
    written = _off_chip(instruction.arrays)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _off_chip(operands[1].arrays)
    return written + sum(_off_chip(each.arrays) for each in operands)


def _off_chip(arrays: tuple[Array, ...]) -> float:
    return sum(array.num_bytes for array in arrays if not array.is_on_chip)


def _read(program: Program, fused: Computation, name: str) -> float:
    """Returns how much of a value a fused computation reads."""
    total = 0.0
    for user in fused.values():
        places = [place for place, operand in enumerate(user.operands) if operand == name]
        if not places:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather") and places == [0]:
            total += sum(array.num_bytes for array in user.arrays)
        elif user.opcode == "bitcast":
            total += _read(program, fused, user.name)
        elif user.opcode == "fusion":
            inner = program.fused(user)
            named = {int(each.arguments): each.name for each in inner.values() if each.opcode == "parameter"}
            total += sum(_read(program, inner, named[place]) for place in places if place in named)
        elif user.opcode != "dynamic-update-slice" or places != [0]:
            return sum(array.num_bytes for array in fused[name].arrays)
    return total


def _written(fused: Computation, root: Instruction) -> float:
    if root.opcode == "tuple":
        return sum(_written(fused, fused[name]) for name in root.operands if name in fused)
    if root.opcode == "bitcast" and root.operands[0] in fused:
        return _written(fused, fused[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return sum(array.num_bytes for array in fused[root.operands[1]].arrays)
    return sum(array.num_bytes for array in root.arrays)
