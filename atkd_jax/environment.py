"""What a run ran on: written beside it, so that its numbers can be judged later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PACKAGES = (
    "atkd-jax", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers",
    "tokenizers", "safetensors", "tensorflow-datasets", "gguf", "pydantic", "tyro",
)  # fmt: skip


def describe_environment(*, devices: Sequence[str], command_line: Sequence[str] | None = None) -> dict[str, Any]:
    """Python, packages, devices, platform, git revision and command line, as JSON can hold them.

    Args:
        devices: The devices in words, such as `[str(d) for d in jax.devices()]`; this module imports no jax.
        command_line: The words that started the program; the process's own where None.

    Returns:
        A flat dict but for `packages` (name to version, those installed) and `git` (None outside a checkout).

    Example:
        >>> describe_environment(devices=["cpu:0"])["devices"]
        ['cpu:0']
    """
    return {
        "command_line": list(sys.argv if command_line is None else command_line),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "devices": list(devices),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "git": git_revision(Path(__file__).parent),
    }


def git_revision(directory: Path) -> dict[str, Any] | None:
    """The revision of the checkout that holds `directory`, and whether files differ from it; None outside of one."""
    try:
        revision = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "changed_files": bool(changed)}


def _git(directory: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(directory), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
