"""SeqKD's data: the teacher's answers to all training prompts, written once and kept in the run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from atkd_jax.config import Config
from atkd_jax.data import Answer, open_source, write_answers
from atkd_jax.errors import InputError
from atkd_jax.generation import written_answers
from atkd_jax.sharding import Meshes
from atkd_jax.teachers import LoadedTeacher
from atkd_jax.training.progress import CountLines
from atkd_jax.training.shared_directory import turn_on_this_host

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

    A stop loses no finished batch of answers; what is drawn depends on the seed and the prompt's number alone.

    Args:
        config: The run.
        teacher: In float, on its mesh.
        meshes: How the devices are arranged.
        report: Is told how far it has come, every ten seconds.

    Returns:
        The file; None where the config asks for none.

    Raises:
        InputError: There is no file yet and several processes share the run, or what there is of one was begun with
            other settings.
    """
    if not config.rollout.once:
        return None
    path = config.run_dir / TEACHER_TEXT_NAME
    if path.exists():
        report(f"Learning from what the teacher has written: {path}.")
        return path
    if jax.process_count() > 1:
        raise InputError(
            f"rollout.once: {path} is written by one process, but {jax.process_count()} share this run; start it with "
            "one process first, and with all of them when the file is there"
        )
    with turn_on_this_host(config.cache_dir):
        source = config.data.source
        examples = open_source(source, split=config.data.train_split, cache_dir=config.cache_dir)
    prompts = [examples[number].prompt for number in range(len(examples))]
    settings = config.rollout.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p"})
    rows = min(_ROWS, len(prompts))

    def answers(group: Sequence[str], numbers: range) -> list[Answer]:
        return written_answers(
            teacher.model,
            group,
            teacher.tokenizer,
            template=config.data.template,
            key=jax.random.key(config.seed),
            numbers=numbers,
            batch_size=rows,
            mesh=meshes.teacher if meshes.teacher.size > 1 else None,
            unstack=config.rollout.unstack_layers,
            **settings,
        )

    report(f"The teacher answers {len(prompts):,} prompts, once, into {path}.")
    facts = settings | {"model": config.teacher.model, "seed": config.seed, "template": config.data.template}
    told = CountLines("prompts answered", total=len(prompts), report=report)
    write_answers(path, prompts, answer=answers, settings=facts, batch_size=rows, on_progress=told)
    return path
