"""A whole training run: models, data, compiled step, loop, and going on from a checkpoint."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import Template, open_source, training_batches
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_model
from atkd_jax.models import Decoder, DecoderConfig, TokenSimilarity, logical_axes, split_trained
from atkd_jax.objectives import make_objective
from atkd_jax.sharding import (
    Meshes,
    SumOverProcesses,
    make_meshes,
    parameter_shardings,
    row_sharding,
    row_share,
    shard_batch,
    spread,
)
from atkd_jax.teachers import CachedTeacher, teacher_signal
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.compiled_step import jitted_gradient_shares, jitted_train_step, require_even_batch
from atkd_jax.training.gradient_shares import with_gradient_shares
from atkd_jax.training.instance_threshold import with_threshold
from atkd_jax.training.loop import LoopSettings, Outcome, run_loop
from atkd_jax.training.metrics import MetricsWriter, NoMetrics
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.peaks import peak_of
from atkd_jax.training.placement import place_state
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.reffakd import train_on_images
from atkd_jax.training.rollout_batches import RolloutBatches, rollout_batches
from atkd_jax.training.same_run import require_same_run
from atkd_jax.training.scoring import train_scorers
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.shared_directory import require_shared_directory, turn_on_this_host
from atkd_jax.training.start import Start, prepare_start
from atkd_jax.training.state import TrainState
from atkd_jax.training.student import student_directory, student_tokenizer
from atkd_jax.training.teacher_text import training_source, write_teacher_text
from atkd_jax.training.teaching import Cached, Teaching, forget_weights, open_teaching
from atkd_jax.training.throughput import StepCosts, step_costs
from atkd_jax.training.validation import held_out_loss, with_validation
from atkd_jax.training.vocabularies import Vocabularies, vocabularies


class _Models(NamedTuple):
    teacher_graph: Any
    teacher_params: Any
    student_graph: nnx.GraphDef[Decoder]
    student_frozen: tuple[Any, ...]
    vocabularies: Vocabularies
    student_config: DecoderConfig
    teacher_config: DecoderConfig


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
    start = prepare_start(begun, teaching.loaded, meshes=meshes, open_batches=opened, report=report)
    config = config if start.threshold is None else with_threshold(config, start.threshold)
    models, state, optimizer = _prepare(config, mesh, teaching, start, tokenizer, report)
    if cached is not None:
        # From here on no weights of the teacher are in memory.
        del teaching
        forget_weights()
    if config.rollout.is_during_training:
        batches = _with_rollouts(config, batches, meshes, models, tokenizer)
    require_shared_directory(config.run_dir)
    with (
        closing(batches),
        Checkpoints(config.run_dir / "checkpoints", keep=config.checkpoint.keep) as checkpoints,
    ):
        restored = checkpoints.restore_newest(state, report=report)
        if restored is not None:
            require_same_run(restored.config, config)
            state = restored.state
            batches.set_state(restored.data_state)
            report(f"Going on from step {int(state.step)} of {config.run_dir}.")
        if int(state.step) >= config.training.steps:
            report(f"{config.run_dir} has already taken its {config.training.steps} steps.")
            return Outcome(state, None)
        checkpoints.require_room(state)
        before_start()
        start.write(config.run_dir)
        return _run(config, meshes, models, optimizer, state, batches, checkpoints, console, tokenizer)


def open_batches(
    config: Config, tokenizer: Any, mesh: Mesh, *, teacher_tokenizer: Any = None, cached: Cached | None = None
) -> SharedBatches:
    """Returns the run's training batches, this process's rows of each, at their beginning.

    Args:
        config: The run.
        tokenizer: The student's.
        mesh: Over which the rows are split.
        teacher_tokenizer: The teacher's, whose ids the batches hold too where the objective pairs tokens.
        cached: With a cache they have what the teacher says as well.
    """
    own = teacher_tokenizer if config.objective.pairs_tokens else None
    return _open_batches(config, tokenizer, mesh, *training_source(config), cached, own)


def _open_batches(
    config: Config,
    tokenizer: Any,
    mesh: Mesh,
    source: str,
    split: str,
    cached: Cached | None = None,
    teacher_tokenizer: Any = None,
) -> SharedBatches:
    with turn_on_this_host(config.cache_dir):
        examples = open_source(source, split=split, cache_dir=config.cache_dir)
    share = row_share(mesh)
    batches = training_batches(
        examples,
        tokenizer,
        template=config.data.template,
        sequence_length=config.data.sequence_length,
        batch_size=config.training.batch_size,
        packing=config.data.packing,
        overlong=config.data.overlong,
        seed=config.seed,
        process_index=share.index,
        process_count=share.count,
        signals=None if cached is None else cached.open_signals(),
        signals_name=None if cached is None else cached.name,
        teacher_tokenizer=teacher_tokenizer,
    )
    length = config.data.sequence_length
    return SharedBatches(batches, share, example_count=len(examples), sequence_length=length)


def _with_rollouts(
    config: Config, batches: SharedBatches, meshes: Meshes, models: _Models, tokenizer: Any
) -> RolloutBatches:
    corpus = None
    if config.data.corpus is not None:
        # Plain text has no turns, and any number of texts may share a row.
        data = config.data.model_copy(update={"template": "plain", "packing": True})
        plain = config.model_copy(update={"data": data})
        corpus = _open_batches(plain, tokenizer, meshes.student, config.data.corpus, config.data.corpus_split)
    return rollout_batches(
        config.rollout,
        batches,
        corpus=corpus,
        form=Template(config.data.template, tokenizer),
        student=models.student_graph,
        teacher=models.teacher_graph,
        teacher_params=models.teacher_params,
        vocab_size=models.vocabularies.student,
        meshes=meshes,
        batch_size=config.training.batch_size,
        steps=config.training.steps,
        seed=config.seed,
    )


def _check(config: Config, meshes: Meshes) -> None:
    if config.run_dir.exists() and not config.run_dir.is_dir():
        raise InputError(f"run_dir {config.run_dir} must be a directory, but a file is in its place; name another one")
    require_even_batch(config, meshes)
    if config.student.lora.rank is not None and config.rollout.is_during_training:
        raise InputError(
            f"rollout.author={config.rollout.author} writes with all of the student's weights, but student.lora.rank="
            f"{config.student.lora.rank} trains adapters beside frozen ones; use rollout.author=data, or leave rank out"
        )


def _prepare(
    config: Config, mesh: Mesh, teaching: Teaching, start: Start, tokenizer: Any, report: Callable[[str], None]
) -> tuple[_Models, TrainState, optax.GradientTransformation]:
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    scale = config.objective.token_similarity.scale
    if scale is None:
        teacher_graph, teacher_params = teaching.split()
    else:
        teacher_graph, teacher_params = nnx.split(TokenSimilarity(teaching.loaded.model, scale=scale))
    student_graph, student_params, frozen = split_trained(start.student)
    state = place_state(student_params, mesh=mesh, optimizer=optimizer, seed=config.seed)
    frozen = tuple(spread(each, parameter_shardings(mesh, logical_axes(each), each)) for each in frozen)
    shapes = {"student": start.student.config, "teacher": teaching.loaded.model.config}
    own, sentence = vocabularies(tokenizer, teaching.loaded.tokenizer, **shapes)
    if sentence is not None:
        report(sentence)
    models = _Models(teacher_graph, teacher_params, student_graph, frozen, own, *shapes.values())
    return models, state, optimizer


def _run(
    config: Config,
    meshes: Meshes,
    models: _Models,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: SharedBatches | RolloutBatches,
    checkpoints: Checkpoints,
    console: Console,
    tokenizer: Any,
) -> Outcome:
    step = _compiled(config, meshes, models, optimizer, state)
    settings = LoopSettings(
        steps=config.training.steps,
        log_every_steps=config.training.log_every_steps,
        checkpoint_every_steps=config.checkpoint.every_steps,
        max_nonfinite_steps=config.training.max_nonfinite_steps,
        costs=_costs(config, meshes, models, console),
    )
    start = int(state.step)
    writes = jax.process_index() == 0
    with (
        closing(MetricsWriter(config.run_dir, resumed_step=start) if writes else NoMetrics()) as metrics,
        closing(ProgressLine(steps=config.training.steps, start=start, console=console)) as progress,
    ):
        place = partial(shard_batch, meshes.student)
        if isinstance(batches, RolloutBatches):
            step, place = batches.before(step, place), lambda batch: batch
        step = _validated(config, meshes, models, step, batches, tokenizer, start)
        return run_loop(
            step,
            state,
            batches,
            place=place,
            add_up=SumOverProcesses(meshes.student).start,
            settings=settings,
            checkpoints=checkpoints,
            metrics=metrics,
            progress=progress,
            profile=ProfileWindow(config.run_dir / "profile", **config.profile.model_dump()),
            config=config.model_dump(mode="json"),
        )


def _compiled(
    config: Config,
    meshes: Meshes,
    models: _Models,
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
    step = _one_at_a_time(lambda state, batch: compiled(state, teacher, batch, *frozen))
    every_steps = config.training.gradient_share_every_steps
    if every_steps is None:
        return step
    shares = jitted_gradient_shares(config, **shapes)
    measure = _one_at_a_time(lambda state, batch: shares(state.params, state.step, teacher, batch, *frozen))
    return with_gradient_shares(step, measure, every_steps=every_steps, start=int(state.step))


def _validated(
    config: Config,
    meshes: Meshes,
    models: _Models,
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


def _one_at_a_time(step: Callable[..., Any]) -> Callable[..., Any]:
    """Waits for each step where CPUs stand in for several devices.

    Two programs with collectives in flight at once can starve each other there of the client's threads, for good.
    """
    if jax.default_backend() != "cpu" or jax.device_count() == 1:
        return step
    return lambda *arguments: jax.block_until_ready(step(*arguments))


def _costs(config: Config, meshes: Meshes, models: _Models, console: Console) -> StepCosts:
    peak = peak_of(meshes.student.devices.flatten().tolist())
    if peak.flops_per_second is None:
        console.print(f"MFU is not told: {peak.source}.", highlight=False, soft_wrap=True)
    else:
        text = f"MFU is the share of {peak.flops_per_second / 1e12:,.3g} TFLOP/s: {peak.source}."
        console.print(text, highlight=False, soft_wrap=True)
    is_cached = isinstance(models.teacher_graph, CachedTeacher)
    runs_layers = not is_cached and config.objective.token_similarity.scale is None
    return step_costs(
        student=models.student_config,
        teacher=models.teacher_config if runs_layers else None,
        length=config.data.sequence_length,
        teacher_seconds=0.0 if is_cached else _teacher_seconds(config, meshes.teacher, models),
        peak_flops_per_second=peak.flops_per_second,
    )


def _teacher_seconds(config: Config, mesh: Mesh, models: _Models) -> float:
    """Measures the teacher's pass over one batch, which the compiled step does not tell apart from the rest."""
    shape = (config.training.microbatches, config.training.batch_size // config.training.microbatches)
    shape = (*shape, config.data.sequence_length)
    ones = jax.make_array_from_callback(
        shape, row_sharding(mesh, leading_axes=1), lambda index: np.ones(shape, np.int32)[index]
    )

    def run(params: Any, ones: jax.Array) -> jax.Array:
        batch = {"tokens": ones, "positions": jnp.zeros_like(ones), "segment_ids": ones}
        signal = teacher_signal(
            models.teacher_graph,
            params,
            batch=batch,
            targets=ones,
            mask=ones > 0,
            vocab_size=models.vocabularies.student,
            mesh=mesh,
            with_target_log_probs=make_objective(config.objective).needs_teacher_probability,
        )
        return sum((leaf.sum().astype(jnp.float32) for leaf in jax.tree.leaves(signal)), start=jnp.zeros(()))

    compiled = jax.jit(run)
    compiled(models.teacher_params, ones).block_until_ready()
    began = time.monotonic()
    compiled(models.teacher_params, ones).block_until_ready()
    return time.monotonic() - began
