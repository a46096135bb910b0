"""The text of a compiled program, taken apart: computations, instructions, how often each of them runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
# Of a kernel's call, which then goes on over three lines.
_METADATA = re.compile(r"kernel_metadata=\{\n(.*)\n\}")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


class Array(NamedTuple):
    """One array of a shape: its type, dimensions, and whether it stays in the chip's own fast memory."""

    dtype: str
    dims: tuple[int, ...]
    is_on_chip: bool

    @property
    def num_bytes(self) -> float:
        """Without the padding of a layout's tiles."""
        return math.prod(self.dims) * _BYTES.get(self.dtype, 1)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: unique within the program.
        opcode: such as `fusion`, `all-gather-start` or `while`.
        arrays: what it gives, a tuple's elements one after the other.
        arguments: what stands in its brackets: operands, a constant's value or a parameter's number.
        attributes: the rest of the line.
        is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of instructions of the same computation."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def op_name(self) -> str:
        """The path of the traced operation that it comes from, such as `jit(train_step)/jvp()/while`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute such as `body` names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


class Program(NamedTuple):
    """A compiled module: its computations by name, and the one that it starts with."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def fused(self, instruction: Instruction) -> dict[str, Instruction]:
        """Returns the computation that a fusion runs; nothing for another instruction."""
        if instruction.opcode != "fusion":
            return {}
        return self.computations.get(instruction.called("calls") or "", {})


def parse_program(text: str) -> Program:
    """Returns the program that `compiled.as_text()` describes.

    Raises:
        ValueError: where the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in _METADATA.sub(r"kernel_metadata={\1}", text).splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header and ("->" in line or header[1]):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            continue
        found = _NAME.match(line)
        if found and current is not None:
            instruction = _instruction(line, found)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("parse_program: the text must have an ENTRY computation, got none; pass compiled.as_text()")
    return Program(computations, entry)


def _instruction(line: str, found: re.Match[str]) -> Instruction:
    rest = line[found.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    end = _closing(rest)
    return Instruction(found[2], opcode.strip(), _arrays(shape), rest[1 : end - 1], rest[end:], bool(found[1]))


def _closing(text: str) -> int:
    """Returns the index after the bracket that closes the first one."""
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return index + 1
    return len(text)


def _arrays(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(size) for size in dims.split(",") if size), "S(1)" in (layout or ""))
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


class Run(NamedTuple):
    """An instruction with how often a step runs it, and the computation that it stands in."""

    instruction: Instruction
    times: int
    computation: str


def runs(program: Program, *, turns: Callable[[Instruction], int]) -> Iterator[Run]:
    """Yields the instructions that a device executes one after the other, those of loops and branches included.

    Of a fusion it yields the fusion, not what was fused. Both branches of a condition are yielded.

    Args:
        program: the compiled step.
        turns: how often a loop turns whose bound is not in the text.
    """
    yield from _runs_of(program, program.entry, 1, turns)


def _runs_of(program: Program, name: str, times: int, turns: Callable[[Instruction], int]) -> Iterator[Run]:
    for instruction in program.computations[name].values():
        yield Run(instruction, times, name)
        if instruction.opcode == "while":
            body = instruction.called("body") or ""
            known = trip_count(program, instruction)
            yield from _runs_of(program, body, times * (turns(instruction) if known is None else known), turns)
        elif instruction.opcode in ("call", "async-start"):
            called = instruction.called("to_apply") or instruction.called("calls")
            if called:
                yield from _runs_of(program, called, times, turns)
        elif instruction.opcode == "conditional":
            for branch in _branches(instruction):
                yield from _runs_of(program, branch, times, turns)


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    named = (instruction.called(f"{which}_computation") for which in ("true", "false"))
    return [name for name in named if name]


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns how often a loop turns that counts from 0 up to a constant; None where its bound is computed."""
    stated = re.search(r'known_trip_count["\s:=]*\{["\s]*n["\s:]*"?(\d+)', loop.attributes)
    if stated:
        return int(stated[1])
    condition = program.computations.get(loop.called("condition") or "", {})
    root = next((each for each in condition.values() if each.is_root), None)
    if root is None:
        return None
    # What is compared may have been fused.
    compared = next((each for each in program.fused(root).values() if each.is_root), root)
    if compared.opcode != "compare" or "direction=LT" not in compared.attributes:
        return None
    named = [condition[name] for name in root.operands if name in condition]
    bounds = [int(each.arguments) for each in named if each.opcode == "constant"]
    counters = [each for each in named if each.opcode == "get-tuple-element"]
    if len(bounds) != 1 or len(counters) != 1:
        return None
    return -(-bounds[0] // _step(program.computations[loop.called("body") or ""], _element(counters[0])))


def _element(instruction: Instruction) -> int:
    found = re.search(r"index=(\d+)", instruction.attributes)
    return int(found[1]) if found else 0


def _step(body: dict[str, Instruction], element: int) -> int:
    """Returns what a turn adds to a counter: where the compiler has unrolled the loop, more than 1."""
    root = next(each for each in body.values() if each.is_root)
    current, step = body.get(root.operands[element]), 0
    while current is not None and current.opcode in ("add", "copy", "bitcast"):
        operands = [body[name] for name in current.operands if name in body]
        constants = [int(each.arguments) for each in operands if each.opcode == "constant"]
        if current.opcode == "add" and len(constants) != 1:
            return 1
        step += sum(constants)
        current = next((each for each in operands if each.opcode != "constant"), None)
    return max(step, 1)
