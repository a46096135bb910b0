"""`launch.py fetch [NAME]`: brings a model into the cache, as a Hugging Face directory."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from atkd_jax.commands.command_line import Options as CommonOptions


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """What fetch takes besides the config."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """A known name, a directory or a hub id; the config's teacher where none is given."""


def run(options: Options) -> None:
    """Brings the model, or finds that it is there, and prints its directory."""
    from atkd_jax.interop import fetch_model

    config = options.settings
    directory = fetch_model(options.name or config.teacher.model, cache_dir=config.cache_dir, report=print)
    print(directory)
