"""Bringing a model that is a GGUF file, on this machine or in a repository of the hub, as a Hugging Face directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from atkd_jax.errors import InputError
from atkd_jax.interop.gguf_conversion import convert_gguf
from atkd_jax.interop.hub import download_file_from_hub, hub_answers
from atkd_jax.interop.model_card import model_card
from atkd_jax.interop.new_directory import working_folder

_IN_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)/([\w.-]+(?:/[\w.-]+)*\.gguf)")


def is_gguf(name: str) -> bool:
    """Return whether a model's name is that of a GGUF file."""
    return name.endswith(".gguf")


def fetch_gguf(name: str, *, models: Path, report: Callable[[str], None]) -> Path:
    """Return the Hugging Face directory that a GGUF file was dequantised to, now or before.

    Args:
        name: a file's path, or the hub id of a repository, a slash and the file's path in it.
        models: the folder in which directories are kept; it must exist.
        report: receives a line about each step.

    Raises:
        InputError: where there is no such file, it cannot be brought, or it cannot be read.
    """
    file = Path(name).expanduser()
    if file.is_file():
        directory = models / _local_name(file)
        if not directory.is_dir():
            _convert(file, directory, base_model=None, report=report)
        return directory
    in_repository = _IN_REPOSITORY.fullmatch(name)
    if in_repository is None or ".." in name:
        raise InputError(
            f"{name!r} must be a GGUF file that exists, or one in a repository of the hub such as org/model/file.gguf, "
            "but is neither; correct it."
        )
    directory = models / name.replace("/", "--")
    if directory.is_dir():
        return directory
    if not hub_answers():
        raise InputError(
            f"{name} is no file here, and the Hugging Face hub does not answer or is switched off by HF_HUB_OFFLINE; "
            "connect to it, or give a file."
        )
    hub_id, path = in_repository.groups()
    with working_folder(models) as folder:
        _convert(
            download_file_from_hub(hub_id, path, folder, report=report), directory, base_model=hub_id, report=report
        )
    return directory


def _local_name(file: Path) -> str:
    """Return a name that another file, and this one once it has changed, does not have."""
    found = file.resolve()
    facts = f"{found} {found.stat().st_size} {found.stat().st_mtime_ns}"
    return f"{file.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def _convert(file: Path, directory: Path, *, base_model: str | None, report: Callable[[str], None]) -> None:
    report(f"Dequantising {file.name} to {directory}")
    card = model_card(
        title=file.stem,
        summary=f"{base_model or 'A model'}, dequantised to float32 from {file.name}: each weight is what its "
        "quantisation left of it.",
        sections={},
        base_model=base_model,
        tags=(),
    )
    convert_gguf(file, directory, model_card=card)
