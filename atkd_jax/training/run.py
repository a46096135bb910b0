"""A whole training run: models, data, compiled step, loop, and going on from a checkpoint."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import jax
import optax
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_model
from atkd_jax.sharding import Meshes, SumOverProcesses, make_meshes, shard_batch
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.compiled_step import (
    jitted_gradient_shares,
    jitted_train_step,
    one_at_a_time,
    require_even_batch,
)
from atkd_jax.training.gradient_shares import with_gradient_shares
from atkd_jax.training.instance_threshold import with_threshold
from atkd_jax.training.loop import Outcome
from atkd_jax.training.reffakd import train_on_images
from atkd_jax.training.rollout_batches import RolloutBatches
from atkd_jax.training.run_batches import open_batches, with_rollouts
from atkd_jax.training.run_costs import run_costs
from atkd_jax.training.run_models import RunModels, prepare_models
from atkd_jax.training.run_steps import checkpoints_of, newest_state, run_steps
from atkd_jax.training.scoring import train_scorers
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.shared_directory import require_shared_directory, turn_on_this_host
from atkd_jax.training.start import prepare_start
from atkd_jax.training.state import TrainState
from atkd_jax.training.student import student_directory, student_tokenizer
from atkd_jax.training.teacher_text import write_teacher_text
from atkd_jax.training.teaching import forget_weights, open_teaching
from atkd_jax.training.validation import held_out_loss, with_validation


def train(
    config: Config, *, console: Console | None = None, before_start: Callable[[], None] = lambda: None
) -> Outcome:
    """Trains the config's student, from its newest checkpoint if the run has one.

    Args:
        config: The run.
        console: Where the progress line goes.
        before_start: Called once nothing that was given can be refused any more, before anything is written.

    Returns:
        The last state, and the signal that ended the run early, if one did.

    Raises:
        InputError: if something that was given is wrong; its message says what to do.
    """
    if config.images.source is not None:
        return train_on_images(config, console=console, before_start=before_start).outcome
    if config.answers.source is not None:
        return train_scorers(config, console=console, before_start=before_start)
    console = console or Console()
    report = partial(console.print, highlight=False, soft_wrap=True)
    meshes = make_meshes(**config.mesh.model_dump())
    mesh = meshes.student
    _check(config, meshes)
    with turn_on_this_host(config.cache_dir):
        fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=report)
        if config.student.init == "directory":
            student_directory(config.student, cache_dir=config.cache_dir, report=report)
    teaching = open_teaching(config, meshes=meshes, report=report)
    tokenizer, cached = student_tokenizer(config, teaching.loaded.tokenizer), teaching.cached
    write_teacher_text(config, teaching.loaded, meshes=meshes, report=report)
    opened = partial(open_batches, config, tokenizer, mesh, teacher_tokenizer=teaching.loaded.tokenizer)
    batches = opened(cached=cached)
    begun = teaching.start_config(config)
    start = prepare_start(begun, teaching.loaded, meshes=meshes, open_batches=opened, report=report, cached=cached)
    config = config if start.threshold is None else with_threshold(config, start.threshold)
    models, state, optimizer = prepare_models(config, mesh, teaching, start, tokenizer, report=report)
    if cached is not None:
        # From here on no weights of the teacher are in memory.
        del teaching
        forget_weights()
    if config.rollout.is_during_training:
        batches = with_rollouts(config, batches, meshes, models, tokenizer)
    require_shared_directory(config.run_dir)
    with closing(batches), checkpoints_of(config) as checkpoints:
        state = newest_state(config, state, batches, checkpoints, report=report)
        if int(state.step) >= config.training.steps:
            return Outcome(state, None)
        checkpoints.require_room(state)
        before_start()
        start.write(config.run_dir)
        return _run(config, meshes, models, optimizer, state, batches, checkpoints, console, tokenizer)


def _check(config: Config, meshes: Meshes) -> None:
    if config.run_dir.exists() and not config.run_dir.is_dir():
        raise InputError(f"run_dir {config.run_dir} must be a directory, but a file is in its place; name another one")
    require_even_batch(config, meshes)
    if config.student.lora.rank is not None and config.rollout.is_during_training:
        raise InputError(
            f"rollout.author={config.rollout.author} writes with all of the student's weights, but student.lora.rank="
            f"{config.student.lora.rank} trains adapters beside frozen ones; use rollout.author=data, or leave rank out"
        )


def _run(
    config: Config,
    meshes: Meshes,
    models: RunModels,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: SharedBatches | RolloutBatches,
    checkpoints: Checkpoints,
    console: Console,
    tokenizer: Any,
) -> Outcome:
    step = _compiled(config, meshes, models, optimizer, state)
    place = partial(shard_batch, meshes.student)
    if isinstance(batches, RolloutBatches):
        step, place = batches.before(step, place), lambda batch: batch
    step = _validated(config, meshes, models, step, batches, tokenizer, int(state.step))
    return run_steps(
        config,
        step,
        state,
        batches,
        place=place,
        add_up=SumOverProcesses(meshes.student).start,
        costs=run_costs(config, meshes, models, report=partial(console.print, highlight=False, soft_wrap=True)),
        checkpoints=checkpoints,
        console=console,
    )


def _compiled(
    config: Config,
    meshes: Meshes,
    models: RunModels,
    optimizer: optax.GradientTransformation,
    state: TrainState,
) -> Callable[..., Any]:
    """The compiled step, teacher bound, with the shares of its gradient now and then where the config asks for them."""
    shapes = {
        "meshes": meshes,
        "student": models.student_graph,
        "teacher": models.teacher_graph,
        "vocab_size": models.vocabularies.student,
        "teacher_vocab_size": models.vocabularies.teacher,
        "state": jax.tree.map(lambda array: array.sharding, state),
        "teacher_params": jax.tree.map(lambda array: array.sharding, models.teacher_params),
        "frozen": jax.tree.map(lambda array: array.sharding, models.student_frozen),
    }
    teacher, frozen = models.teacher_params, models.student_frozen
    compiled = jitted_train_step(config, **shapes, optimizer=optimizer)
    step = one_at_a_time(lambda state, batch: compiled(state, teacher, batch, *frozen))
    every_steps = config.training.gradient_share_every_steps
    if every_steps is None:
        return step
    shares = jitted_gradient_shares(config, **shapes)
    measure = one_at_a_time(lambda state, batch: shares(state.params, state.step, teacher, batch, *frozen))
    return with_gradient_shares(step, measure, every_steps=every_steps, start=int(state.step))


def _validated(
    config: Config,
    meshes: Meshes,
    models: RunModels,
    step: Callable[..., Any],
    batches: SharedBatches | RolloutBatches,
    tokenizer: Any,
    start: int,
) -> Callable[..., Any]:
    """The step with the validation that the config asks for, of which an adaptive fraction of rollouts is told."""
    every_steps = config.training.validate_every_steps
    if every_steps is None:
        return step
    own = {"student": models.student_graph, "frozen": models.student_frozen, "vocab_size": models.vocabularies.student}
    measure = held_out_loss(config, tokenizer, meshes=meshes, **own)
    if not isinstance(batches, RolloutBatches):
        return with_validation(step, measure, every_steps=every_steps, start=start)
    heard = {"is_first_known": lambda: batches.knows_validation_loss, "on_loss": batches.hear_validation_loss}
    return with_validation(step, measure, every_steps=every_steps, start=start, **heard)
