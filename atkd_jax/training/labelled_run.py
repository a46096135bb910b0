"""Runs of models whose examples have labels instead of next tokens, through the one loop and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import ArrayBatches
from atkd_jax.errors import InputError
from atkd_jax.models import axes_around_decoder
from atkd_jax.sharding import SEQUENCE_AXIS, Meshes, SumOverProcesses, make_meshes, replicated, whole_row_sharding
from atkd_jax.training.batch_loss import Metrics, split_rows, summed_over_parts
from atkd_jax.training.compiled_step import one_at_a_time, require_even_batch
from atkd_jax.training.loop import Outcome
from atkd_jax.training.optimizer import learning_rate_schedule, make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.run_steps import checkpoints_of, newest_state, run_steps
from atkd_jax.training.state import TrainState
from atkd_jax.training.step import apply_gradient
from atkd_jax.training.throughput import StepCosts

LossOf = Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]


def train_labelled(
    model: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    loss_of: LossOf,
    *,
    config: Config,
    mesh: Mesh,
    console: Console | None = None,
) -> Outcome:
    """Trains a model on arrays, from the newest checkpoint of its run directory if there is one.

    The run directory has what every run has: metrics.jsonl, TensorBoard's files, checkpoints that are saved together
    with the place in the data. In the metrics a token is an example. The rows of a batch are split over the mesh and
    taken in `training.microbatches` parts; the weights of a decoder lie as the table says, all others on every device.
    Loss and gradient are those of the whole batch, however it is split.

    Args:
        model: Its `nnx.Param`s are trained, and are afterwards those of the last step.
        arrays: `[examples, ...]` each, by name.
        loss_of: `(model, batch) -> (loss per example, metrics per example)`, `[rows]` each; the batch has the arrays.
        config: `run_dir`, `seed`, `training`, `optimizer`, `checkpoint` and `profile` are read.
        mesh: As from `labelled_mesh`.
        console: Where the progress line goes.

    Raises:
        InputError: if the batch does not fall into equal parts, or the checkpoints are another run's.
    """
    require_even_batch(config, Meshes(mesh, mesh))
    console = console or Console()
    report = partial(console.print, highlight=False, soft_wrap=True)
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    state = place_state(params, mesh=mesh, optimizer=optimizer, seed=config.seed, axes=axes_around_decoder)
    places = jax.tree.map(lambda array: array.sharding, state)
    step = _compiled_step(graphdef, rest, loss_of, optimizer, config, mesh=mesh, state=places, names=[*arrays])
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with (
        closing(ArrayBatches(arrays, batch_size=config.training.batch_size, seed=config.seed)) as batches,
        checkpoints_of(config) as checkpoints,
    ):
        state = newest_state(config, state, batches, checkpoints, report=report)
        outcome = Outcome(state, None)
        if int(state.step) < config.training.steps:
            outcome = run_steps(
                config,
                step,
                state,
                batches,
                place=lambda batch: jax.device_put(batch, whole_row_sharding(mesh)),
                add_up=SumOverProcesses(mesh).start,
                costs=StepCosts(),
                checkpoints=checkpoints,
                console=console,
            )
    nnx.update(model, outcome.state.params)
    return outcome


def labelled_mesh(config: Config) -> Mesh:
    """Returns how the devices are arranged for a labelled run.

    Raises:
        InputError: if there are several processes, the mesh would split a row, or the config asks for measurements that
            are of a language model's tokens.
    """
    if jax.process_count() > 1:
        raise InputError("Models of labelled examples train in one process, on all of its devices; start one.")
    for name in ("validate_every_steps", "gradient_share_every_steps"):
        if getattr(config.training, name) is not None:
            raise InputError(
                f"training.{name}={getattr(config.training, name)} measures a language model's tokens, of which "
                "labelled examples have none; leave it out"
            )
    mesh = make_meshes(**config.mesh.model_dump()).student
    if mesh.shape[SEQUENCE_AXIS] > 1:
        raise InputError(
            f"mesh.sequence={mesh.shape[SEQUENCE_AXIS]} splits a row's tokens, but labelled examples stay whole; "
            "set it to 1, and use fsdp or tensor"
        )
    return mesh


def on_one_device(model: nnx.Module) -> None:
    """Brings a small model's weights to the first device, in place, to be asked or exported there."""
    nnx.update(model, jax.device_put(nnx.state(model, nnx.Param), jax.devices()[0]))


def _compiled_step(
    graphdef: Any,
    rest: Any,
    loss_of: LossOf,
    optimizer: optax.GradientTransformation,
    config: Config,
    *,
    mesh: Mesh,
    state: Any,
    names: list[str],
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    schedule = learning_rate_schedule(config.optimizer, steps=config.training.steps)
    microbatches = config.training.microbatches

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        def share_of_mean(params: Any, part: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            per_example, metrics = loss_of(nnx.merge(graphdef, params, rest), part)
            own = jax.tree.map(lambda values: jnp.mean(values) / microbatches, metrics)
            return jnp.mean(per_example) / microbatches, own

        parts = jax.tree.map(lambda array: split_rows(array, microbatches), batch)
        (loss, metrics), gradient = summed_over_parts(share_of_mean, state.params, parts, microbatches)
        rows = jnp.asarray(len(next(iter(batch.values()))))
        metrics |= {"loss": loss, "counted_tokens": rows, "tokens": rows}
        metrics["learning_rate"] = jnp.asarray(schedule(state.step - state.skipped_steps))
        return apply_gradient(state, loss, gradient, metrics, optimizer)

    by_rows = dict.fromkeys(names, whole_row_sharding(mesh))
    places = {"in_shardings": (state, by_rows), "out_shardings": (state, replicated(mesh))}
    return one_at_a_time(jax.jit(step, donate_argnums=0, **places))
