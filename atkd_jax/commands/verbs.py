"""The table of verbs: what each does, and what it takes besides the config.

A verb's work is `run(options)` in the module of this package that has its name. Options stand here, apart from that
work, so that `--help` imports no jax.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, NamedTuple

import tyro

from atkd_jax.commands.command_line import Options


@dataclasses.dataclass(frozen=True)
class FetchOptions(Options):
    """Of `fetch`."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """A known name, a directory or a hub id; the config's teacher where none is given."""


@dataclasses.dataclass(frozen=True)
class TrainOptions(Options):
    """Of `train`."""

    dry_run: bool = False
    """Print the resolved config, parameter counts, shardings and memory, and start nothing."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(Options):
    """Of `evaluate`."""

    run: bool = True
    """Measure the run's newest checkpoint too; without it, the teacher and the student before training."""


@dataclasses.dataclass(frozen=True)
class GenerateOptions(Options):
    """Of `generate`."""

    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """What to answer; it goes through the config's data.template."""
    model: Literal["student", "teacher"] = "student"
    """Who answers: the run's newest checkpoint, or the teacher."""
    max_new_tokens: int = 128
    """The longest answer."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; above it, tokens are drawn."""
    top_k: int = 0
    """Draw from so many likeliest tokens only; 0 draws from all."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that have this probability together."""


class Verb(NamedTuple):
    """What the command line knows of a verb before it runs."""

    summary: str
    options: type[Options] = Options


VERBS = {
    "fetch": Verb("Bring a model into the cache, as a Hugging Face directory.", FetchOptions),
    "train": Verb("Distil the teacher into the student; the same command goes on after a stop.", TrainOptions),
    "evaluate": Verb("Measure teacher, student before and student after on held-out examples.", EvaluateOptions),
    "generate": Verb("Answer a prompt with the run's student, or with its teacher.", GenerateOptions),
    "export": Verb("Write the run's student as a Hugging Face directory."),
}
