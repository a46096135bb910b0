"""Reading safetensors: the names, shapes and types of a directory's tensors, and one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors asks for by name)
import numpy as np
from safetensors import SafetensorError, safe_open

from atkd_jax.errors import InputError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is.

    Attributes:
        file: the safetensors file.
        shape: as stored.
        kind: the format's own name of the element type, such as "BF16".
    """

    file: Path
    shape: tuple[int, ...]
    kind: str


def read_json(file: Path) -> dict:
    """Return the object that a JSON file holds."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{file.parent} must hold {file.name}, but does not; give a directory in Hugging Face's layout."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} must be readable JSON, but is not ({error}); fetch or export it again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold a JSON object, but holds a {type(content).__name__}; fetch it again.")
    return content


def _open(file: Path):
    try:
        return safe_open(file, framework="numpy")
    except FileNotFoundError:
        raise InputError(f"{file} belongs to the model but is missing; fetch or export the model again.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} must be a whole safetensors file, but is truncated or corrupt ({error}); fetch or export it again."
        ) from None


def _weight_map(directory: Path) -> Mapping[str, str] | None:
    """Return the index's tensor name -> file name, or None where the weights stand in a single file."""
    index = directory / INDEX_NAME
    if not index.exists():
        return None
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} must hold a weight_map of tensor names and file names; fetch or export it again.")
    for name in set(names.values()):
        if Path(name).name != name:
            raise InputError(f"{index} must name files beside it, but names {name!r}; do not trust this directory.")
    return names


def list_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model directory by name. Reads the files' headers only.

    Raises:
        InputError: where there are no safetensors, or a file is missing, truncated or corrupt, or has not the tensors
            that the index says.
    """
    weight_map = _weight_map(directory)
    if weight_map is None and not (directory / SINGLE_NAME).exists():
        raise InputError(
            f"{directory} must hold {SINGLE_NAME} or {INDEX_NAME}, but holds neither; convert the weights to "
            "safetensors, for pickle files are never read."
        )
    file_names = [SINGLE_NAME] if weight_map is None else sorted(set(weight_map.values()))
    tensors: dict[str, StoredTensor] = {}
    for file_name in file_names:
        file = directory / file_name
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118  (a handle, not a mapping)
                part = opened.get_slice(name)
                tensors[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
    for name, file_name in (weight_map or {}).items():
        if name not in tensors:
            raise InputError(
                f"{directory / file_name} must hold the tensor {name}, as {INDEX_NAME} says, but does not; fetch or "
                "export the model again."
            )
    return tensors


def read_tensor(name: str, tensor: StoredTensor) -> np.ndarray:
    """Return one tensor in the type it is stored in.

    The file is mapped into memory for this one tensor: a mapping that stayed would gather the whole file's pages.
    """
    with _open(tensor.file) as opened:
        return opened.get_tensor(name)
