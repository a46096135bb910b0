"""A directory that is written whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atkd_jax.errors import InputError

ADAPTER_CONFIG_NAME = "adapter_config.json"

# What the user's disk, quota or permissions refuse, as against faults of the program.
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "writing is not permitted there",
    errno.EPERM: "writing is not permitted there",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "a part of its path is a file",
}


def _refusal(error: Exception) -> str | None:
    """Return why the disk refused, or None where `error` is something else."""
    if isinstance(error, OSError):
        return _REFUSALS.get(error.errno or 0)
    # The Rust libraries that write tokenizers and tensors raise a bare Exception and leave the number in its text.
    return next((why for number, why in _REFUSALS.items() if f"(os error {number})" in str(error)), None)


def _check_target(target: Path, replace: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not replace:
        raise InputError(f"{target} must not exist yet, but it does; remove it or choose another place.")
    if not any((target / name).is_file() for name in ("config.json", ADAPTER_CONFIG_NAME)):
        raise InputError(
            f"{target} is about to be replaced by a model directory, but what is there holds no config.json, so it is "
            "no model directory; choose another place or remove it yourself."
        )


def require_space(directory: Path, needed_bytes: int) -> None:
    """Raise an InputError where the disk that holds `directory` has not `needed_bytes` left."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < needed_bytes:
        raise InputError(
            f"{directory.parent} needs {needed_bytes / 1e6:,.1f} MB of free disk for what is about to be written, but "
            f"has {free_bytes / 1e6:,.1f} MB; free some, or choose a place on another disk."
        )


@contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder in `parent` for what is needed on the way, and remove it when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=".fetch.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `target` that becomes `target` when the block ends, and vanishes when it fails.

    Args:
        target: where the directory shall stand. Its parents are made.
        replace: let it take the place of a model directory that already stands there.

    Raises:
        InputError: where `target` is taken, the disk is full, or writing is not permitted.
    """
    _check_target(target, replace)
    working = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield working
        working.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(working, target)
    except Exception as error:
        why = _refusal(error)
        if why is None:
            raise
        raise InputError(
            f"{target} cannot be written, because {why}; nothing was left behind, so free some room or choose another "
            "place and run the same again."
        ) from error
    finally:
        if working is not None:
            shutil.rmtree(working, ignore_errors=True)


def _put_in_place(working: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        # A directory cannot be renamed onto a full one: the old one steps aside first, and goes only after.
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.rename(aside / target.name)
        try:
            working.rename(target)
        except OSError:
            with suppress(OSError):
                (aside / target.name).rename(target)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return
    working.rename(target)
