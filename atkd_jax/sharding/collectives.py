"""The collectives of a compiled step: of which kind, how large, and over which axes of the mesh."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from atkd_jax.sharding.chips import Chip
from atkd_jax.sharding.compiled_text import Array, Instruction, Program, Run

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# A range of numbers, cut to sizes whose axes may then change places.
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_FORMS = {f"{kind}{end}": kind for kind in KINDS for end in ("", "-start")}


class Traffic(NamedTuple):
    """Collectives of one kind over the same axes, of one step.

    Attributes:
        kind: such as "all-gather".
        axes: of the mesh, such as "data+fsdp".
        count: how many a step runs.
        num_bytes: of the whole arrays, summed over them.
        seconds: by the bandwidth of the links that the group spans.
        is_async: whether the compiler lets other work go on meanwhile.
        largest: the dimensions of the largest array.
    """

    kind: str
    axes: str
    count: int
    num_bytes: float
    seconds: float
    is_async: bool
    largest: tuple[int, ...]


class Collective(NamedTuple):
    """One collective of a step.

    Attributes:
        kind: of `KINDS`.
        num_bytes: of the array that is whole: what a device receives in an all-gather, gives into a reduce-scatter.
        times: how often a step runs it.
        group: the devices that take part together, the first such group, as places in the mesh's flat order.
        is_async: whether other work may go on meanwhile.
        shapes: of what it gives.
        op_name: the traced operation that it comes from.
    """

    kind: str
    num_bytes: float
    times: int
    group: tuple[int, ...]
    is_async: bool
    shapes: tuple[tuple[int, ...], ...]
    op_name: str


def collectives_of(program: Program, run: Run, num_devices: int) -> list[Collective]:
    """Returns the collectives that an instruction is or has fused into it."""
    found = []
    name = run.instruction.name
    for instruction, holder in _within(program, run.instruction, ""):
        kind = _FORMS.get(instruction.opcode)
        # One that goes on beside several fusions stands in each of them, and at its start and its end.
        if kind is None or name.startswith("async-collective-done") or holder.startswith("async_collective_fusion"):
            continue
        # The TPU's compiler fuses the slice that each device keeps of a sum into the sum.
        kind = "reduce-scatter" if kind == "all-reduce" and "scatter" in holder else kind
        group = replica_group(instruction, num_devices)
        if len(group) > 1:
            arrays = _transferred(instruction, kind)
            num_bytes = sum(array.num_bytes for array in arrays)
            if instruction.opcode == "reduce-scatter":
                num_bytes *= len(group)
            starts = instruction.opcode.endswith("-start") or name.startswith("async-collective-start")
            shapes = tuple(array.dims for array in arrays)
            op_name = instruction.op_name or run.instruction.op_name
            found.append(Collective(kind, num_bytes, run.times, group, starts, shapes, op_name))
    return found


def _within(program: Program, instruction: Instruction, holder: str) -> Iterator[tuple[Instruction, str]]:
    yield instruction, holder
    for inner in program.fused(instruction).values():
        yield from _within(program, inner, instruction.called("calls") or "")


def _transferred(instruction: Instruction, kind: str) -> list[Array]:
    arrays = [array for array in instruction.arrays if array.dims]
    if not instruction.opcode.endswith("-start") or kind == "all-reduce":
        return arrays or list(instruction.arrays)
    # A start gives its operands again before its results.
    half = len(instruction.operands)
    return arrays[half : 2 * half] or arrays


def replica_group(instruction: Instruction, num_devices: int) -> tuple[int, ...]:
    """Returns the first group of devices that take part in a collective together.

    Raises:
        ValueError: where the text says it in a way that is not known here.
    """
    text = instruction.attributes
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text)
    if pairs:
        return tuple(int(number) for number in pairs.groups())
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return tuple(int(number) for number in listed[1].split(","))
    if re.search(r"replica_groups=\{\}", text):
        return tuple(range(num_devices))
    counted = re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", text)
    if counted:
        return tuple(_iota(counted[2], counted[3]).reshape(_numbers(counted[1]))[0].tolist())
    named = re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{([^}}]*)\}}", text)
    if named:
        return _group_of_axes(named[1], _iota(named[2], named[3]) if named[2] else None, named[4])
    raise ValueError(f"replica_group: unknown form of the groups of {instruction.name}: {text[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Returns the numbers of devices that the text gives as a range, cut to sizes and its axes put in an order."""
    devices = np.arange(int(np.prod(_numbers(sizes)))).reshape(_numbers(sizes))
    return devices.transpose(_numbers(order)) if order else devices


def _group_of_axes(mesh: str, devices: np.ndarray | None, used: str) -> tuple[int, ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    devices = np.arange(int(np.prod(list(sizes.values())))) if devices is None else devices
    devices = devices.reshape(list(sizes.values()))
    index: list[slice | int] = [0] * len(sizes)
    for name in re.findall(r"'([^']+)'", used):
        index[list(sizes).index(name)] = slice(None)
    return tuple(np.atleast_1d(devices[tuple(index)]).reshape(-1).tolist())


def axes_of_group(group: Sequence[int], meshes: dict[str, Mesh]) -> str:
    """Returns the axes of the mesh that a group of devices spans, such as `data+fsdp`.

    Args:
        group: places in the mesh's flat order.
        meshes: how the devices are arranged, by the words that precede the axes: "" for the first one.
    """
    for words, mesh in meshes.items():
        axes, is_whole = _axes_on(group, mesh)
        if is_whole:
            return words + "+".join(axes)
    return "part of " + "+".join(_axes_on(group, next(iter(meshes.values())))[0])


def _axes_on(group: Sequence[int], mesh: Mesh) -> tuple[list[str], bool]:
    places = np.stack(np.unravel_index(np.asarray(group), mesh.devices.shape), axis=1)
    axes = [axis for axis, along in zip(mesh.axis_names, places.T, strict=True) if len(set(along.tolist())) > 1]
    return axes, len(group) == int(np.prod([mesh.shape[axis] for axis in axes]))


def summed(
    collectives: Sequence[Collective], *, chip: Chip, devices: Sequence[Any], meshes: dict[str, Mesh]
) -> list[Traffic]:
    """Returns the collectives of a step by kind and axes, those that take longest first.

    Args:
        collectives: all of them.
        chip: of the topology.
        devices: in the mesh's flat order; those without coordinates are taken for a line.
        meshes: for `axes_of_group`.
    """
    groups = defaultdict(list)
    for each in collectives:
        groups[each.kind, axes_of_group(each.group, meshes), each.is_async].append(each)
    traffic = []
    for (kind, axes, is_async), group in groups.items():
        seconds = sum(each.times * seconds_of(each, chip=chip, devices=devices) for each in group)
        num_bytes = sum(each.times * each.num_bytes for each in group)
        largest = max((shape for each in group for shape in each.shapes), key=lambda shape: int(np.prod(shape)))
        count = sum(each.times for each in group)
        traffic.append(Traffic(kind, axes, count, num_bytes, seconds, is_async, largest))
    return sorted(traffic, key=lambda each: -each.seconds)


def seconds_of(collective: Collective, *, chip: Chip, devices: Sequence[Any]) -> float:
    """Returns how long a collective takes where the links are free, in rings along the torus axes that it spans.

    A ring sends both ways where the axis is closed. What passes a device is (n - 1) / n of the whole array, twice that
    in an all-reduce, and a quarter in an all-to-all, whose parts go the shorter way round. Latency is not counted.
    """
    everywhere = np.stack([np.asarray(getattr(device, "coords", (device.id,))) for device in devices])
    coords = everywhere[list(collective.group)]
    extents = everywhere.max(axis=0) + 1
    spanned = [axis for axis in range(coords.shape[1]) if len(set(coords[:, axis].tolist())) > 1]
    if collective.kind == "collective-permute" or not spanned:
        return collective.num_bytes / chip.link_bytes_per_second
    ways = sum(2 if extents[axis] % chip.wrapped_extents == 0 else 1 for axis in spanned)
    share = (len(coords) - 1) / len(coords) * {"all-reduce": 2.0, "all-to-all": 0.25}.get(collective.kind, 1.0)
    return share * collective.num_bytes / (ways * chip.link_bytes_per_second)
