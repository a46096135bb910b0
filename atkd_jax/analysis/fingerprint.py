"""What a cell's numbers depend on, as one short text: a cell that has finished with the same is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from atkd_jax import __version__
from atkd_jax.analysis.grid import Cell

# Where things lie and how the work is divided changes no number.
_NO_INPUTS = {"run_dir", "cache_dir", "distributed", "export", "landscape", "profile"}
# Weights are told apart by their size and time; what is smaller, by every byte.
_WHOLLY_READ_BYTES = 64 * 2**20


def fingerprint(cell: Cell, *, directory: Path, needed: Mapping[str, str]) -> str:
    """Returns the fingerprint of a cell's inputs: its config, the files that it names, and the cells that it needs.

    Args:
        cell: The cell.
        directory: The study's, below which the students lie that cells start from.
        needed: The fingerprints of the cells that it needs, by key.
    """
    # What stands at its default is left out, so that a setting that is new to this version changes no older print.
    config = cell.config.model_dump(mode="json", exclude=_NO_INPUTS, exclude_defaults=True)
    # A cell that another one starts from is known by its own fingerprint, and a study may be moved.
    text = json.dumps(config, sort_keys=True).replace(json.dumps(str(directory))[1:-1], "STUDY")
    data, teacher = cell.config.data, cell.config.teacher
    places = [data.source, data.corpus, teacher.model, teacher.cache, cell.config.student.directory]
    inside = [directory / key for key in cell.needs]
    files = [
        _content(Path(place).expanduser())
        for place in places
        if place is not None and not any(Path(place).is_relative_to(each) for each in inside)
    ]
    parts = [__version__, text, json.dumps(files), json.dumps([needed[key] for key in cell.needs])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    """A digest of a file or of a directory's files; empty where a name is none of this machine's."""
    if not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(path.parent)} {stat.st_size}".encode())
        is_small = stat.st_size <= _WHOLLY_READ_BYTES
        digest.update(file.read_bytes() if is_small else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:16]
