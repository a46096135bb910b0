"""What is known of a run's step before it runs: the machine's peak, the models' arithmetic, the teacher's time."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from atkd_jax.config import Config
from atkd_jax.objectives import make_objective
from atkd_jax.sharding import Meshes, row_sharding
from atkd_jax.teachers import CachedTeacher, teacher_signal
from atkd_jax.training.peaks import peak_of
from atkd_jax.training.run_models import RunModels
from atkd_jax.training.throughput import StepCosts, step_costs


def run_costs(config: Config, meshes: Meshes, models: RunModels, *, report: Callable[[str], None]) -> StepCosts:
    """Returns what a step of the run costs, the teacher's pass measured.

    Args:
        config: The run.
        meshes: How the devices are arranged for each model.
        models: On them.
        report: Is told, in a sentence, what MFU is a share of.
    """
    peak = peak_of(meshes.student.devices.flatten().tolist())
    if peak.flops_per_second is None:
        report(f"MFU is not told: {peak.source}.")
    else:
        report(f"MFU is the share of {peak.flops_per_second / 1e12:,.3g} TFLOP/s: {peak.source}.")
    cached = models.teacher_graph if isinstance(models.teacher_graph, CachedTeacher) else None
    # Without hidden states there is nothing for its head to multiply.
    is_heard = config.objective.reads_teacher and (cached is None or cached.form.kind == "hidden")
    is_run = is_heard and cached is None
    return step_costs(
        student=models.student_config,
        teacher=models.teacher_config if is_heard else None,
        runs_teacher_layers=cached is None and config.objective.token_similarity.scale is None,
        length=config.data.sequence_length,
        teacher_seconds=_teacher_seconds(config, meshes.teacher, models) if is_run else 0.0,
        peak_flops_per_second=peak.flops_per_second,
    )


def _teacher_seconds(config: Config, mesh: Mesh, models: RunModels) -> float:
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
