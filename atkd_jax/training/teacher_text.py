"""SeqKD's data: the teacher's answers to all training prompts, written once and kept in the run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from atkd_jax.config import Config
from atkd_jax.data import Answer, open_source, write_answers
from atkd_jax.errors import InputError
from atkd_jax.generation import written_answers
from atkd_jax.sharding import Meshes, gathered
from atkd_jax.teachers import LoadedTeacher
from atkd_jax.training.progress import CountLines
from atkd_jax.training.shared_directory import require_shared_directory, turn_on_this_host

TEACHER_TEXT_NAME = "teacher_text.jsonl"
_ROWS = 16


def training_source(config: Config) -> tuple[str, str]:
    """Returns the source and the split that a run learns from: what its teacher wrote, if the config says so."""
    if config.rollout.once:
        return str(config.run_dir.absolute() / TEACHER_TEXT_NAME), "train"
    return config.data.source, config.data.train_split


def write_teacher_text(
    config: Config, teacher: LoadedTeacher, *, meshes: Meshes, report: Callable[[str], None]
) -> Path | None:
    """Has the teacher answer the prompts of the training split, unless it has already, or the config asks for nothing.

    A stop loses no finished batch of answers; what is drawn depends on the seed and the prompt's number alone. All
    processes of a run answer together, each with its devices, and process 0 writes.

    Args:
        config: The run.
        teacher: In float, on its mesh.
        meshes: How the devices are arranged.
        report: Is told how far it has come, every ten seconds.

    Returns:
        The file; None where the config asks for none.

    Raises:
        InputError: What there is of a file was begun with other settings, or some process does not see the run's
            directory.
    """
    if not config.rollout.once:
        return None
    path = config.run_dir / TEACHER_TEXT_NAME
    require_shared_directory(config.run_dir)
    if gathered(path.exists())[0]:
        report(f"Learning from what the teacher has written: {path}.")
        return path
    with turn_on_this_host(config.cache_dir):
        source = config.data.source
        examples = open_source(source, split=config.data.train_split, cache_dir=config.cache_dir)
    prompts = [examples[number].prompt for number in range(len(examples))]
    settings = config.rollout.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p"})
    rows = min(_ROWS, len(prompts))

    def answers(numbers: range) -> list[Answer]:
        return written_answers(
            teacher.model,
            prompts[numbers.start : numbers.stop],
            teacher.tokenizer,
            template=config.data.template,
            key=jax.random.key(config.seed),
            numbers=numbers,
            batch_size=rows,
            mesh=meshes.teacher if meshes.teacher.size > 1 else None,
            unstack=config.rollout.unstack_layers,
            **settings,
        )

    def write(ask: Callable[[range], list[Answer]]) -> None:
        report(f"The teacher answers {len(prompts):,} prompts, once, into {path}.")
        facts = settings | {"model": config.teacher.model, "seed": config.seed, "template": config.data.template}
        told = CountLines("prompts answered", total=len(prompts), report=report)
        write_answers(
            path,
            prompts,
            answer=lambda _, numbers: ask(numbers),
            settings=facts,
            batch_size=rows,
            on_progress=told,
        )

    _in_step(answers, write)
    return path


def _in_step(
    answers: Callable[[range], list[Answer]], write: Callable[[Callable[[range], list[Answer]]], None]
) -> None:
    """Runs `write` in process 0, and `answers` in all of them for each range that it asks for.

    Raises:
        InputError: In every process, where `write` raised one.
    """

    def asked(numbers: range) -> list[Answer]:
        gathered({"numbers": [numbers.start, numbers.stop]})
        return answers(numbers)

    if jax.process_index() == 0:
        refusal = None
        try:
            write(asked)
        except InputError as error:
            refusal = error
        gathered({"refusal": None if refusal is None else str(refusal)})
        if refusal is not None:
            raise refusal
        return
    while "numbers" in (order := gathered(None)[0]):
        answers(range(*order["numbers"]))
    if order["refusal"] is not None:
        raise InputError(order["refusal"])
