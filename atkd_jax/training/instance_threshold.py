"""AdaKD's threshold: the teacher's mean loss over the training data, from one pass before the first step or a cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.data import spaced_numbers
from atkd_jax.data.cached_signals import CachedSignals
from atkd_jax.errors import InputError
from atkd_jax.sharding import Meshes, gathered, replicated, row_sharding, shard_batch
from atkd_jax.teachers import LoadedTeacher, batch_log_probs
from atkd_jax.training.progress import CountLines
from atkd_jax.training.teaching import teaching_model
from atkd_jax.training.validation import spaced_batches

THRESHOLD_NAME = "instance_weighting.json"


class Threshold(NamedTuple):
    """The mean over examples of the teacher's mean loss on their counted tokens, in nats per token, and of how many."""

    threshold: float
    examples: int

    def sentence(self) -> str:
        """Returns the figures in words."""
        return (
            f"The teacher's mean loss is {self.threshold:.4f} nats per token over {self.examples:,} examples: the "
            "threshold of objective.instance_weighting."
        )

    def write(self, run_dir: Path) -> None:
        """Keeps them in the run directory."""
        (run_dir / THRESHOLD_NAME).write_text(json.dumps(self._asdict()) + "\n", encoding="utf-8")


def with_threshold(config: Config, threshold: Threshold) -> Config:
    """Returns the config with what was measured in it, as every checkpoint keeps it."""
    weighting = config.objective.instance_weighting.model_copy(update={"threshold": threshold.threshold})
    objective = config.objective.model_copy(update={"instance_weighting": weighting})
    return config.model_copy(update={"objective": objective})


def read_threshold(run_dir: Path) -> Threshold:
    """Returns what was measured when the run started.

    Raises:
        InputError: if the run directory does not say.
    """
    file = run_dir / THRESHOLD_NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Threshold(float(found["threshold"]), int(found["examples"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} must hold the threshold that the run was started with, but cannot be read ({error}); take it from "
            "where the run was started, or give it as objective.instance_weighting.threshold."
        ) from None


def measured_threshold(
    config: Config, teacher: LoadedTeacher, *, meshes: Meshes, report: Callable[[str], None]
) -> Threshold:
    """Returns the threshold, measured on the training split; every process must call it.

    Args:
        config: The run.
        teacher: As it will teach, on its mesh.
        meshes: How the devices are arranged for each model.
        report: Is told, every ten seconds, how far the pass has come, and what was found.

    Raises:
        InputError: if the teacher's loss is not finite.
    """
    examples = config.objective.instance_weighting.threshold_examples
    split, mesh = config.data.train_split, meshes.student
    batches = spaced_batches(config, teacher.tokenizer, split=split, examples=examples, mesh=mesh)
    step = _compiled_step(teaching_model(config, teacher.model), vocab_size=len(teacher.tokenizer), mesh=meshes.teacher)
    by_rows = row_sharding(meshes.teacher)
    told = CountLines("batches of the teacher's mean loss", total=len(batches), report=report)
    sums = np.zeros(2, np.float64)
    for done, batch in enumerate(batches, start=1):
        sums += np.asarray(step(jax.device_put(shard_batch(meshes.student, batch), by_rows)), np.float64)
        told(done)
    return _accepted(Threshold(float(sums[0] / sums[1]), round(sums[1])), report)


def cached_threshold(config: Config, signals: CachedSignals, *, report: Callable[[str], None]) -> Threshold:
    """Returns the threshold from a cache, which holds log p(target) exactly; every process must call it.

    The teacher is the one that teaches: as it was stored, in integers perhaps, when the cache was written.

    Args:
        config: The run.
        signals: The cache of its training split; closed afterwards.
        report: As that of `measured_threshold`.

    Raises:
        InputError: as `measured_threshold`; or a record is missing or damaged.
    """
    numbers = spaced_numbers(signals.examples, config.objective.instance_weighting.threshold_examples)
    with closing(signals):
        own, means = numbers[jax.process_index() :: jax.process_count()], []
        told = CountLines("examples of the teacher's mean loss", total=len(own), report=report)
        for done, number in enumerate(own, start=1):
            of_targets = signals.target_log_probs(number)
            if len(of_targets):  # An example that was dropped has none.
                means.append(-float(np.mean(of_targets, dtype=np.float64)))
            told(done)
    sums, counts = zip(*gathered((math.fsum(means), len(means))), strict=True)
    if not any(counts):
        raise InputError(
            f"objective.instance_weighting.threshold_examples={len(numbers)} must reach an example with a target, but "
            "data.overlong leaves all of these evenly spaced ones out; raise it, or leave it out"
        )
    return _accepted(Threshold(math.fsum(sums) / sum(counts), sum(counts)), report)


def _accepted(found: Threshold, report: Callable[[str], None]) -> Threshold:
    if not math.isfinite(found.threshold):
        raise InputError(
            "The teacher's mean loss over data.train_split must be finite, but it gives some of the data's tokens no "
            "probability at all; leave those examples out, or set objective.instance_weighting.threshold"
        )
    report(found.sentence())
    return found


def _compiled_step(model: Any, *, vocab_size: int, mesh: Mesh) -> Callable[[dict[str, jax.Array]], jax.Array]:
    graphdef, params = nnx.split(model)

    def step(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        """Returns the sum over examples of the teacher's mean loss, and their number."""
        log_probs, mask = batch_log_probs(graphdef, params, batch=batch, vocab_size=vocab_size, mesh=mesh)
        shares = losses.example_shares(mask=mask, segment_ids=batch["segment_ids"])
        return jnp.stack([jnp.sum(jnp.where(mask, -log_probs, 0) * shares), jnp.sum(shares)])

    compiled = jax.jit(step, out_shardings=replicated(mesh))
    return lambda batch: compiled(params, batch)
