"""The device mesh: four named axes over all devices of all processes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from atkd_jax.errors import InputError

# From the rarest to the most frequent communication, as a TPU's links are dealt out.
AXES = ("data", "fsdp", "sequence", "tensor")


def make_mesh(*, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with axes data, fsdp, sequence and tensor; data takes the devices that the others leave.

    On TPUs the devices are arranged so that the neighbours along an axis are neighbours in the torus, as far as its
    shape allows.

    Args:
      fsdp: Devices that share one copy of the parameters; batch rows are split over them as well.
      tensor: Devices that share heads, MLP width and vocabulary.
      sequence: Devices that share the tokens of a row.
      devices: All devices of all processes if None.

    Raises:
      InputError: if the number of devices is not a multiple of `fsdp * tensor * sequence`.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % (fsdp * tensor * sequence):
        others = f" times mesh.sequence={sequence}" if sequence > 1 else ""
        raise InputError(
            f"mesh.fsdp={fsdp} times mesh.tensor={tensor}{others} must divide the number of devices, which is "
            f"{len(devices)}"
        )
    shape = (len(devices) // (fsdp * tensor * sequence), fsdp, sequence, tensor)
    return Mesh(_arranged(shape, devices), AXES)


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # Several slices follow one another already, and data, the outermost axis, runs over the slow network between them.
    if getattr(devices[0], "platform", None) == "tpu" and len(slices) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(shape)


class Meshes(NamedTuple):
    """One arrangement of the same devices for each model."""

    student: Mesh
    teacher: Mesh


def make_meshes(
    *,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    teacher_fsdp: int | None = None,
    teacher_tensor: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Meshes:
    """Returns the student's mesh, and the teacher's: the same one, or the same devices cut in another way.

    A teacher is only read, so that its weights may be spread over more devices than the student's, or split over
    tensor where the student's are not. What goes from one to the other is `[rows, length]` and hidden states.

    Args:
      fsdp: As in `make_mesh`.
      tensor: Likewise.
      sequence: Likewise, of both meshes.
      teacher_fsdp: The teacher's; the student's if None.
      teacher_tensor: Likewise.
      devices: All devices of all processes if None.

    Raises:
      InputError: if the number of devices is not a multiple of either product.
    """
    student = make_mesh(fsdp=fsdp, tensor=tensor, sequence=sequence, devices=devices)
    own = (fsdp if teacher_fsdp is None else teacher_fsdp, tensor if teacher_tensor is None else teacher_tensor)
    if own == (fsdp, tensor):
        return Meshes(student, student)
    if student.size % (own[0] * own[1] * sequence):
        raise InputError(
            f"mesh.teacher_fsdp={own[0]} times mesh.teacher_tensor={own[1]} times mesh.sequence={sequence} must "
            f"divide the number of devices, which is {student.size}"
        )
    # In the student's order of devices, which one compiled program must keep.
    return Meshes(student, Mesh(student.devices.reshape(-1, own[0], sequence, own[1]), AXES))


class RowShare(NamedTuple):
    """Which rows of every global batch a process reads: part `index` of `count` equal parts.

    Where tensor or sequence parallelism spans processes, several of them have the same part; `is_first` is true on one
    of them.
    """

    index: int
    count: int
    is_first: bool


def row_share(mesh: Mesh, *, process_index: int | None = None) -> RowShare:
    """Returns the rows that a process's devices hold.

    Args:
      mesh: All processes' devices, as `make_mesh` arranges them.
      process_index: This process if None.

    Raises:
      InputError: if the rows do not fall into equal parts for the processes.
    """
    own = jax.process_index() if process_index is None else process_index
    parts = _parts_of_processes(mesh)
    distinct = sorted(set(parts.values()))
    held = [part for held in distinct for part in held]
    if len(set(held)) != len(held) or len({len(held) for held in distinct}) > 1:
        raise InputError(
            f"mesh.tensor={mesh.shape['tensor']} times mesh.sequence={mesh.shape['sequence']} must divide the number "
            "of devices of each process, or be a multiple of it, so that the rows can be shared among the "
            f"{len(parts)} processes; choose such numbers"
        )
    return RowShare(distinct.index(parts[own]), len(distinct), own == min(p for p in parts if parts[p] == parts[own]))


def row_parts(mesh: Mesh) -> tuple[int, ...]:
    """Returns which parts of a global batch's rows this process's devices hold, one part for each row of the mesh."""
    return _parts_of_processes(mesh)[jax.process_index()]


def _parts_of_processes(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    owners = np.array([device.process_index for device in mesh.devices.flat])
    # One line per part of the rows, with the processes that hold it.
    holders = [set(line.tolist()) for line in owners.reshape(-1, mesh.shape["sequence"] * mesh.shape["tensor"])]
    return {
        process: tuple(number for number, there in enumerate(holders) if process in there)
        for process in sorted(set(owners.tolist()))
    }
