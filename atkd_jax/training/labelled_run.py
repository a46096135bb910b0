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
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import ArrayBatches
from atkd_jax.errors import InputError
from atkd_jax.sharding import SumOverProcesses, make_mesh
from atkd_jax.training.loop import Outcome
from atkd_jax.training.optimizer import learning_rate_schedule, make_optimizer
from atkd_jax.training.run_steps import checkpoints_of, newest_state, run_steps
from atkd_jax.training.state import TrainState, initial_state
from atkd_jax.training.step import Metrics, apply_gradient
from atkd_jax.training.throughput import StepCosts

LossOf = Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]


def train_labelled(
    model: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    loss_of: LossOf,
    *,
    config: Config,
    console: Console | None = None,
) -> Outcome:
    """Trains a model on arrays, from the newest checkpoint of its run directory if there is one, on one device.

    The run directory has what every run has: metrics.jsonl, TensorBoard's files, checkpoints that are saved together
    with the place in the data. In the metrics a token is an example.

    Args:
        model: Its `nnx.Param`s are trained, and are afterwards those of the last step.
        arrays: `[examples, ...]` each, by name.
        loss_of: `(model, batch) -> (loss per example, metrics per example)`, `[rows]` each; the batch has the arrays.
        config: `run_dir`, `seed`, `training`, `optimizer`, `checkpoint` and `profile` are read.
        console: Where the progress line goes.

    Raises:
        InputError: if there are several processes, or the checkpoints are another run's.
    """
    if jax.process_count() > 1:
        raise InputError("Models of labelled examples are small and train in one process; start one.")
    console = console or Console()
    report = partial(console.print, highlight=False, soft_wrap=True)
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    state = initial_state(params, optimizer=optimizer, seed=config.seed)
    step = _compiled_step(graphdef, rest, loss_of, optimizer, config)
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
                place=lambda batch: {name: jnp.asarray(array) for name, array in batch.items()},
                add_up=SumOverProcesses(make_mesh()).start,
                costs=StepCosts(),
                checkpoints=checkpoints,
                console=console,
            )
    nnx.update(model, outcome.state.params)
    return outcome


def _compiled_step(
    graphdef: Any, rest: Any, loss_of: LossOf, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    schedule = learning_rate_schedule(config.optimizer, steps=config.training.steps)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        def mean_loss(params: Any) -> tuple[jax.Array, Metrics]:
            per_example, metrics = loss_of(nnx.merge(graphdef, params, rest), batch)
            return jnp.mean(per_example), jax.tree.map(jnp.mean, metrics)

        (loss, metrics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        rows = jnp.asarray(len(next(iter(batch.values()))))
        metrics |= {"loss": loss, "counted_tokens": rows, "tokens": rows}
        metrics["learning_rate"] = jnp.asarray(schedule(state.step - state.skipped_steps))
        return apply_gradient(state, loss, gradient, metrics, optimizer)

    return jax.jit(step, donate_argnums=0)
