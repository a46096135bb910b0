"""`launch.py generate`: an answer of the run's student or of its teacher, or a file of answers to many prompts."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.student import read_trained_student
from atkd_jax.commands.verbs import GenerateOptions
from atkd_jax.config import Config
from atkd_jax.data import Answer, open_source, read_prompts, write_answers
from atkd_jax.errors import InputError
from atkd_jax.generation import written_answers
from atkd_jax.interop import fetch_model, load_tokenizer, on_one_device
from atkd_jax.models import Decoder, logical_axes
from atkd_jax.sharding import make_mesh, parameter_shardings, spread
from atkd_jax.teachers import load_teacher
from atkd_jax.training.placement import placing_on
from atkd_jax.training.student import student_tokenizer


class _Writer(NamedTuple):
    """Who answers, and a name that says which weights those are."""

    model: Decoder
    tokenizer: Any
    name: str


def run(options: GenerateOptions) -> None:
    """Prints the answer, and nothing else, on stdout; or writes the file of answers."""
    _check(options)
    prompts = _prompts(options)
    config = options.settings
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor) if jax.device_count() > 1 else None
    writer = _writer(options, mesh)
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k or None,
        "top_p": options.top_p,
        "stop_strings": options.stop,
    }

    def answers(group: Sequence[str], numbers: Sequence[int], **more: Any) -> list[Answer]:
        seed, template = config.seed, config.data.template
        settings_of_all = {"key": jax.random.key(seed), "numbers": numbers, "mesh": mesh, **settings, **more}
        settings_of_all["unstack"] = options.unstack_layers
        return written_answers(writer.model, group, writer.tokenizer, template=template, **settings_of_all)

    if options.out is None:
        print(answers(prompts, [0])[0].text)
        return
    rows = min(options.batch_size, len(prompts))
    with progress_line(Console(stderr=True), "answered", total=len(prompts)) as on_progress:
        write_answers(
            options.out,
            prompts,
            answer=lambda group, numbers: answers(group, numbers, batch_size=rows),
            settings=settings | {"model": writer.name, "seed": config.seed, "template": config.data.template},
            batch_size=rows,
            on_progress=on_progress,
        )


def _check(options: GenerateOptions) -> None:
    rules = {
        "prompt": (
            bool(options.prompt) or options.prompts is not None or bool(options.split),
            "a text that is not empty",
        ),
        "max_new_tokens": (options.max_new_tokens >= 1, "a whole number of at least 1"),
        "temperature": (0 <= options.temperature < float("inf"), "a number of at least 0"),
        "top_k": (options.top_k >= 0, "a whole number of at least 0"),
        "top_p": (0 < options.top_p <= 1, "a number above 0 and at most 1"),
        "batch_size": (options.batch_size >= 1, "a whole number of at least 1"),
        "stop": (all(options.stop), "texts that are not empty"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(f"command line: --{name} must be {rule}, but {getattr(options, name)!r} came.")
    sources = [name for name in ("prompt", "prompts", "split") if getattr(options, name)]
    if len(sources) != 1:
        raise InputError(
            f"command line: only one of --prompt, --prompts and --split says what to answer, but {len(sources)} came."
        )
    if (options.out is None) != bool(options.prompt):
        raise InputError("command line: --out goes with --prompts or --split, and they need it; --prompt prints.")


def _prompts(options: GenerateOptions) -> list[str]:
    if options.prompt:
        return [options.prompt]
    if options.prompts is not None:
        return read_prompts(options.prompts.expanduser())
    config: Config = options.settings
    examples = open_source(config.data.source, split=options.split, cache_dir=config.cache_dir, report=_report)
    return [examples[number].prompt for number in range(len(examples))]


def _report(text: str) -> None:
    print(text, file=sys.stderr)


def _writer(options: GenerateOptions, mesh: Mesh | None) -> _Writer:
    config = options.settings
    place = on_one_device if mesh is None else placing_on(mesh)
    if options.model == "teacher":
        teacher = load_teacher(config, place=place, report=_report)
        return _Writer(teacher.model, teacher.tokenizer, f"teacher {config.teacher.model} {config.teacher.dtype}")
    directory = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=_report)
    student, step = read_trained_student(config, teacher_directory=directory)
    if mesh is not None:
        graphdef, params = nnx.split(student)
        student = nnx.merge(graphdef, spread(params, parameter_shardings(mesh, logical_axes(params), params)))
    tokenizer = student_tokenizer(config, load_tokenizer(directory))
    return _Writer(student, tokenizer, f"student of {config.run_dir} after step {step}")
