"""The student's cross-entropy on held-out examples, between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.config import Config
from atkd_jax.data import evaluation_batches, open_source, spaced_examples
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder
from atkd_jax.sharding import Meshes, replicated, row_share, shard_batch
from atkd_jax.teachers import batch_log_probs
from atkd_jax.training.shared_directory import turn_on_this_host
from atkd_jax.training.state import TrainState

VALIDATION_NAME = "validation/cross_entropy"
Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
Measure = Callable[[Any], float]


def spaced_batches(
    config: Config, tokenizer: Any, *, split: str, examples: int | None, mesh: Mesh
) -> list[dict[str, np.ndarray]]:
    """Returns this process's rows of evenly spaced examples, in batches of as many rows as the step holds at once.

    Args:
        config: The run.
        tokenizer: The models'.
        split: Of the run's data.
        examples: How many; None takes all.
        mesh: Over which the rows are split.
    """
    with turn_on_this_host(config.cache_dir):
        found = open_source(config.data.source, split=split, cache_dir=config.cache_dir)
    share = row_share(mesh)
    batches = evaluation_batches(
        spaced_examples(found, examples),
        tokenizer,
        template=config.data.template,
        sequence_length=config.data.sequence_length,
        batch_size=config.training.batch_size // config.training.microbatches,
        packing=config.data.packing,
        overlong=config.data.overlong,
        process_index=share.index,
        process_count=share.count,
    )
    return list(batches)


def held_out_loss(
    config: Config,
    tokenizer: Any,
    *,
    meshes: Meshes,
    student: nnx.GraphDef[Decoder],
    frozen: tuple[Any, ...] = (),
    vocab_size: int,
) -> Measure:
    """Returns a function of the student's weights: its mean cross-entropy, nats per token, on the evaluation split.

    Every process must call it, and gets the same number. The examples are read once and kept.

    Args:
        config: The run.
        tokenizer: The models'.
        meshes: How the devices are arranged.
        student: The student's structure.
        frozen: What of the student is not trained.
        vocab_size: The tokenizer's number of ids.

    Raises:
        InputError: The split is not there, or none of its tokens counts.
    """
    examples = config.training.validation_examples
    held = spaced_batches(config, tokenizer, split=config.evaluation.split, examples=examples, mesh=meshes.student)

    def sums(params: Any, batch: dict[str, jax.Array], *frozen: Any) -> jax.Array:
        """Returns the sum of -log q(target) and the number of tokens."""
        log_probs, mask = batch_log_probs(
            student, params, *frozen, batch=batch, vocab_size=vocab_size, mesh=meshes.student
        )
        return jnp.stack([-jnp.sum(log_probs), jnp.sum(mask, dtype=jnp.float32)])

    compiled = jax.jit(sums, out_shardings=replicated(meshes.student))

    def measure(params: Any) -> float:
        parts = [np.asarray(compiled(params, shard_batch(meshes.student, batch), *frozen)) for batch in held]
        loss, count = np.stack(parts).sum(axis=0, dtype=np.float64).tolist()
        if not count:
            raise InputError(
                "training.validate_every_steps: no token of evaluation.split counts; its responses are empty or cut "
                "off by data.overlong"
            )
        return loss / count

    return measure


def with_validation(
    step: Step,
    measure: Measure,
    *,
    every_steps: int,
    start: int,
    is_first_known: Callable[[], bool] = lambda: True,
    on_loss: Callable[[float], None] = lambda _: None,
) -> Step:
    """Returns a step after which, every so often, the loss stands among the metrics.

    Args:
        step: What it does otherwise.
        measure: The student's weights -> the loss.
        every_steps: Steps between measurements.
        start: Steps that were taken already.
        is_first_known: Whether the loss before the first of these steps is known, or nobody wants it.
        on_loss: Is told each loss.
    """
    number = start

    def validated(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        nonlocal number
        if not is_first_known():
            on_loss(measure(state.params))
        state, values = step(state, batch)
        number += 1
        if number % every_steps == 0:
            loss = measure(state.params)
            on_loss(loss)
            values = values | {VALIDATION_NAME: loss}
        return state, values

    return validated
