"""Writing safetensors one tensor at a time, split into files above a size."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from atkd_jax.interop.new_directory import require_space
from atkd_jax.interop.tensor_files import INDEX_NAME, SINGLE_NAME

_KINDS = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(ml_dtypes.bfloat16): "BF16"}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its name, its shape, and what makes it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def _split(tensors: Sequence[PlannedTensor], itemsize: int, max_shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    filled_bytes = 0
    for tensor in tensors:
        size_bytes = prod(tensor.shape) * itemsize
        if shards[-1] and filled_bytes + size_bytes > max_shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(tensor)
        filled_bytes += size_bytes
    return shards


def _made(tensor: PlannedTensor, dtype: np.dtype) -> np.ndarray:
    # Never bound to a name where it is written, so that it is gone before the next one is made.
    array = np.ascontiguousarray(tensor.make().astype(dtype, copy=False))
    if array.shape != tensor.shape:
        raise ValueError(f"{tensor.name} was planned as {tensor.shape} but made as {array.shape}.")
    return array


def _write_file(file: Path, tensors: Sequence[PlannedTensor], dtype: np.dtype) -> None:
    """Write one file: the header's length in eight bytes, the header, then the tensors' bytes end to end."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": _KINDS[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors start at a multiple of eight, as readers like it
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little"))
        stream.write(encoded)
        for tensor in tensors:
            stream.write(_made(tensor, dtype).view(np.uint8).data)


def write_tensors(directory: Path, tensors: Sequence[PlannedTensor], *, dtype: np.dtype, max_shard_bytes: int) -> None:
    """Write `tensors` into `directory` as model.safetensors, or as several files and an index where they are larger.

    No more than one tensor is in memory at a time. A tensor larger than `max_shard_bytes` gets a file of its own.

    Args:
        directory: an existing directory.
        tensors: in the order of the files.
        dtype: float32, float16 or bfloat16; each array is rounded to it.
        max_shard_bytes: the largest sum of tensors in a file.

    Raises:
        InputError: where the disk has not room for them.
    """
    dtype = np.dtype(dtype)
    if dtype not in _KINDS:
        raise ValueError(f"write_tensors: dtype must be float32, float16 or bfloat16, got {dtype}.")
    total_bytes = sum(prod(tensor.shape) for tensor in tensors) * dtype.itemsize
    require_space(directory, total_bytes)
    shards = _split(tensors, dtype.itemsize, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / SINGLE_NAME, shards[0], dtype)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = directory / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(file, shard, dtype)
        weight_map |= {tensor.name: file.name for tensor in shard}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
