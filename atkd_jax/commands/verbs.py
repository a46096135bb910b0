"""The table of verbs: what each does, and what it takes besides the config.

A verb's work is `run(options)` in the module of this package that has its name. Options stand here, apart from that
work, so that `--help` imports no jax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from atkd_jax.commands.command_line import Options, parse_options, parse_overrides, parse_own
from atkd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class FetchOptions(Options):
    """Of `fetch`."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """A known name, a directory, a GGUF file or a hub id; the config's teacher where none is given."""


@dataclasses.dataclass(frozen=True)
class TrainOptions(Options):
    """Of `train`."""

    dry_run: bool = False
    """Print the resolved config, parameter counts, shardings and memory, and start nothing."""
    report: bool = True
    """Write report.html into the run directory at the end."""


@dataclasses.dataclass(frozen=True)
class CacheOptions(Options):
    """Of `cache`."""

    verify: bool = False
    """Read every file of the cache and compare it with the manifest, and write nothing."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(Options):
    """Of `evaluate`."""

    run: bool = True
    """Measure the run's newest checkpoint too; without it, the teacher and the student before training."""
    after_only: bool = False
    """Leave out what runs like this one share: the student before training, and the teacher's answers."""
    measure: bool = True
    """Measure on held-out examples and answer evaluation.instructions; without it, do only what else is asked for."""
    harness: Annotated[str, tyro.conf.arg(metavar="TASK,...")] = ""
    """Also run these tasks of lm-evaluation-harness, such as mmlu,drop,bbh."""
    judge: bool = False
    """Also have evaluation.judge score the answers to the instructions, those of an earlier call too."""
    yes: bool = False
    """judge: begin, whatever the estimated cost."""


@dataclasses.dataclass(frozen=True)
class GenerateOptions(Options):
    """Of `generate`."""

    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """What to answer; it goes through the config's data.template."""
    prompts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSONL file of what to answer: `prompt`, or `instruction` and perhaps `input`, a line."""
    split: str = ""
    """Answer the prompts of this split of the config's data.source, such as train."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The JSONL file of `prompt` and `response` that answers to many prompts become; a stop loses no finished batch."""
    batch_size: int = 16
    """How many of many prompts are answered at once."""
    stop: tuple[str, ...] = ()
    """An answer ends before the first of these texts."""
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
    unstack_layers: bool = True
    """Write with a second copy of the layers' weights, taken apart, which is faster on CPUs; false where none fits."""


@dataclasses.dataclass(frozen=True)
class PlanOptions(Options):
    """Of `plan`."""

    topology: Annotated[str, tyro.conf.arg(metavar="KIND:AxBxC")] = "v5e:4x4"
    """Of TPUs: v5e, v5p or v6e and the number of chips along each axis, such as v5p:4x4x8."""
    json: bool = False
    """Print JSON in place of tables."""
    search: bool = False
    """Try meshes, remat policies and micro-batches around the config's, and rank them."""
    candidates: int = 16
    """search: how many are compiled at most."""
    limit_seconds: int = 900
    """search: how long one of them may take."""


@dataclasses.dataclass(frozen=True)
class ExportOptions(Options):
    """Of `export`."""

    step: int | None = None
    """The checkpoint to export, by its optimizer steps; the newest where none is given."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where it goes; student, student.gguf or adapter in the run directory where none is given."""
    format: Literal["safetensors", "gguf"] = "safetensors"
    """A Hugging Face directory, or one GGUF file in float16 for llama.cpp."""
    verify: bool = False
    """Compare what was written with transformers' PyTorch model of it, where torch is installed."""


@dataclasses.dataclass(frozen=True)
class UncertaintyOptions(Options):
    """Of `uncertainty`."""

    teachers: tuple[str, ...] = ()
    """Names, directories or hub ids of those that are compared; the config's teacher where none is given."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where uncertainty.csv and uncertainty.png land; the run directory where none is given."""


@dataclasses.dataclass(frozen=True)
class LandscapeOptions(Options):
    """Of `landscape`."""

    students: tuple[str, ...] = ()
    """Names, directories or hub ids of those that are compared; the run's newest checkpoint where none is given."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where landscape.csv, .json and .png land; the run directory where none is given."""


@dataclasses.dataclass(frozen=True)
class StudyOptions(Options):
    """Of `study`; the keys of the config go over those of every cell."""

    study: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[STUDY]")] = None
    """The study's YAML file."""
    dry_run: bool = False
    """Print the cells and which of them have finished, and start nothing."""
    processes: int = 0
    """How many cells run at a time; 0 leaves it to the file."""
    only: tuple[str, ...] = ()
    """Names of cells; the others are left out."""
    seeds: tuple[int, ...] = ()
    """Seeds in place of the file's."""
    directory: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where the results land, in place of the file's."""
    cell: str = ""
    """Run this cell alone, NAME/SEED, in this process: what a cluster's queue may start many of."""
    overrides: tyro.conf.Suppress[Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """The keys of the config that the command line names."""
    words: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The words themselves."""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Of `report`, which reads what runs left and takes no config."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUNS]")] = ()
    """Run directories, of which several are compared; or the directory of a study."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; report.html in the one directory, or comparison.html in the one that holds all, where none is given."""


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Of `local`, which starts another verb and takes no config itself."""

    processes: int = 2
    """How many processes."""
    devices_per_process: int = 1
    """How many devices the CPU stands in for, in each process."""
    command: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The verb and its words."""


class Verb(NamedTuple):
    """What the command line knows of a verb before it runs."""

    summary: str
    options: type[Any] = Options


VERBS = {
    "fetch": Verb("Bring a model into the cache, as a Hugging Face directory.", FetchOptions),
    "train": Verb("Distil the teacher into the student; the same command goes on after a stop.", TrainOptions),
    "cache": Verb(
        "Write what the teacher says of the training data to teacher.cache, once for many runs.", CacheOptions
    ),
    "evaluate": Verb("Measure teacher, student before and student after on held-out examples.", EvaluateOptions),
    "generate": Verb("Answer a prompt, or a file of them, with the run's student or its teacher.", GenerateOptions),
    "export": Verb("Write the run's student as a Hugging Face directory or a GGUF file.", ExportOptions),
    "report": Verb(
        "Write a page of curves, tables and samples of a run, of several, or of a study: report RUN ...", ReportOptions
    ),
    "plan": Verb("Compile the train step for a TPU topology, without a TPU: memory, speed, advice.", PlanOptions),
    "study": Verb("Run a grid of configs over seeds, go on where it stopped, and compare what came out.", StudyOptions),
    "uncertainty": Verb("Draw how sure teachers are of held-out tokens: quantiles and density.", UncertaintyOptions),
    "landscape": Verb("Draw the loss around trained students, and how sharply it rises.", LandscapeOptions),
    "local": Verb(
        "Run train, evaluate or cache in several processes on this machine, on its CPU: local VERB ...", LocalOptions
    ),
}
# The verbs that many processes can work on together.
OF_MANY = ("train", "evaluate", "cache")


def parse_verb(verb: str, words: Sequence[str]) -> Any:
    """The options of a verb of the table.

    Raises:
        InputError: A word, a key or a value is not understood, or a verb of one process is told to be one of many.
        SystemExit: With code 0, after `--help`.
    """
    if verb == "local":
        return _parse_local(words)
    if verb == "study":
        return _parse_study(words)
    if not issubclass(VERBS[verb].options, Options):
        return _parse_without_config(verb, words)
    options = parse_options(verb, VERBS[verb].options, words, summary=VERBS[verb].summary)
    _refuse_labelled(verb, options)
    if verb not in OF_MANY and (options.settings.distributed.num_processes or 1) > 1:
        raise InputError(
            f"launch.py: {verb} is the work of one process, but distributed.num_processes is "
            f"{options.settings.distributed.num_processes}; {_listed('and')} can be shared among many."
        )
    return options


def _parse_study(words: Sequence[str]) -> StudyOptions:
    """A study's cells have configs of their own, so that no config is made of the words here."""
    options, overrides = parse_overrides("study", StudyOptions, words, summary=VERBS["study"].summary)
    if options.config is not None:
        raise InputError(f"command line: study takes the study's own file, as `launch.py study {options.config}`.")
    return dataclasses.replace(options, overrides=overrides, words=tuple(words))


def _refuse_labelled(verb: str, options: Options) -> None:
    """Runs of images and of scores have the verbs that make sense of them."""
    settings = options.settings
    allowed = {"images": ("fetch", "train", "evaluate"), "answers": ("fetch", "train", "evaluate", "export")}
    for group, verbs in allowed.items():
        if getattr(settings, group).source is not None and verb not in verbs:
            raise InputError(
                f"launch.py: {verb} is for language models, but {group}.source is {getattr(settings, group).source}; "
                f"{', '.join(verbs)} work with it."
            )


def _parse_without_config(verb: str, words: Sequence[str]) -> Any:
    options, unknown = parse_own(verb, VERBS[verb].options, words, summary=VERBS[verb].summary)
    if unknown:
        raise InputError(
            f"command line: {verb} does not take {unknown[0]}; `launch.py {verb} --help` shows what it takes."
        )
    return options


def _parse_local(words: Sequence[str]) -> LocalOptions:
    start = next((place for place, word in enumerate(words) if word in VERBS), len(words))
    own, command = words[:start], tuple(words[start:])
    options, unknown = parse_own("local", LocalOptions, own, summary=VERBS["local"].summary)
    if unknown:
        raise InputError(
            f"launch.py: local does not take {unknown[0]}; the words of the verb that it starts come after that verb, "
            f"which is {_listed('or')}."
        )
    if not command or command[0] not in OF_MANY:
        raise InputError(
            f"launch.py: local needs the verb that it shall start, {_listed('or')}, but "
            f"{command[0] if command else 'none'} came."
        )
    for name in ("processes", "devices_per_process"):
        if getattr(options, name) < 1:
            raise InputError(f"command line: {name} must be at least 1, but {getattr(options, name)} came.")
    parse_verb(command[0], command[1:])  # So that what is wrong with its words is told once, before anything starts.
    return dataclasses.replace(options, command=command)


def _listed(last: str) -> str:
    """The verbs that many processes can work on, as a sentence lists them."""
    return f"{', '.join(OF_MANY[:-1])} {last} {OF_MANY[-1]}"
