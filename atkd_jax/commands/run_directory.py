"""The files of a run directory that say what ran: `config.yaml` and `environment.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.environment import describe_environment
from atkd_jax.errors import InputError


def write_run_facts(config: Config, *, devices: Sequence[str]) -> None:
    """Makes the run directory and writes the resolved config and the environment into it.

    Args:
        config: The run.
        devices: The devices in words.

    Raises:
        InputError: A file stands where the directory shall be.
    """
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"run_dir {config.run_dir} must be a directory, but a file is in its place.") from None
    write_text(config.run_dir / "config.yaml", dump_config(config))
    write_json(config.run_dir / "environment.json", describe_environment(devices=devices))


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON: a number that is not finite is an error of the caller's."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: an interruption leaves the old one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
