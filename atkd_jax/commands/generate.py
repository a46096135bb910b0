"""`launch.py generate --prompt TEXT`: an answer of the run's student, or of its teacher."""

import sys
from typing import Any

import jax

from atkd_jax.commands.student import read_trained_student
from atkd_jax.commands.verbs import GenerateOptions
from atkd_jax.errors import InputError
from atkd_jax.evaluation import answer
from atkd_jax.interop import fetch_model, load_tokenizer, read_config
from atkd_jax.models import Decoder
from atkd_jax.teachers import load_teacher


def run(options: GenerateOptions) -> None:
    """Prints the answer, and nothing else, on stdout."""
    _check(options)
    model, tokenizer = _model_and_tokenizer(options)
    (text,) = answer(
        model,
        [options.prompt],
        tokenizer,
        template=options.settings.data.template,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k or None,
        top_p=options.top_p,
        key=jax.random.key(options.settings.seed),
    )
    print(text)


def _check(options: GenerateOptions) -> None:
    rules = {
        "prompt": (bool(options.prompt), "a text that is not empty"),
        "max_new_tokens": (options.max_new_tokens >= 1, "a whole number of at least 1"),
        "temperature": (0 <= options.temperature < float("inf"), "a number of at least 0"),
        "top_k": (options.top_k >= 0, "a whole number of at least 0"),
        "top_p": (0 < options.top_p <= 1, "a number above 0 and at most 1"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(f"command line: --{name} must be {rule}, but {getattr(options, name)!r} came.")


def _model_and_tokenizer(options: GenerateOptions) -> tuple[Decoder, Any]:
    config = options.settings

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    if options.model == "teacher":
        teacher = load_teacher(config.teacher, cache_dir=config.cache_dir, report=report)
        return teacher.model, teacher.tokenizer
    # The teacher's weights are not needed: its directory has the shape that the student is cut from.
    directory = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=report)
    student, _ = read_trained_student(config, teacher=read_config(directory))
    return student, load_tokenizer(directory)
