"""One optimizer step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.decoder import Decoder
from atkd_jax.objectives import Objective
from atkd_jax.teachers import CachedTeacher
from atkd_jax.training.batch_loss import Batch, Metrics, make_batch_loss
from atkd_jax.training.state import TrainState

TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    *,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder] | CachedTeacher,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    vocab_size: int,
    teacher_vocab_size: int | None = None,
    microbatches: int = 1,
    chunk_tokens: int = 512,
    mesh: Mesh | None = None,
    teacher_mesh: Mesh | None = None,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """Returns `train_step(state, teacher_params, batch, *frozen) -> (state, metrics)`, to be jitted by the caller.

    `frozen` is what of the student is not trained: nothing, or what `models.split_trained` gives.

    The teacher runs over all of the step's micro-batches first; the gate then sees the whole batch; then the student
    runs. Loss and gradient are those of the batch in one piece, whatever `microbatches` and `chunk_tokens` are. A step
    whose loss or gradient is not finite leaves weights and optimizer as they were and counts as skipped.

    Args:
        student: The student's structure; its weights are in the state.
        teacher: The teacher's structure, or what is known of its cache. Then the batch has its arrays, nothing of it
            is computed, and `teacher_params` is a dict, of its `head` where hidden states were kept, and empty else.
        objective: What is minimised.
        optimizer: What turns gradients into updates.
        vocab_size: The tokenizer's number of ids; columns of the heads beyond it are padding.
        teacher_vocab_size: That of the teacher's tokenizer, where it has one of its own and the batch holds its tokens.
        microbatches: How many equal parts the rows are worked through in.
        chunk_tokens: How many counted tokens go through the heads at once on a device, see `head_loss`.
        mesh: Where rows and parameters are split over devices; None for one device.
        teacher_mesh: The same devices as the teacher's parameters are split over them; as `mesh` if None.
        schedule: The optimizer's learning rate, which is then among the metrics.
    """

    batch_loss = make_batch_loss(
        student=student,
        teacher=teacher,
        objective=objective,
        vocab_size=vocab_size,
        teacher_vocab_size=teacher_vocab_size,
        microbatches=microbatches,
        chunk_tokens=chunk_tokens,
        mesh=mesh,
        teacher_mesh=teacher_mesh,
    )

    def train_step(state: TrainState, teacher_params: Any, batch: Batch, *frozen: Any) -> tuple[TrainState, Metrics]:
        of_batch = batch_loss(state.params, state.step, teacher_params, batch, *frozen)
        (loss, metrics), gradient = of_batch.value_and_gradient(state.params, of_batch.lessons)
        counts = {"counted_tokens": jnp.sum(of_batch.mask), "tokens": jnp.sum(of_batch.is_token)}
        metrics |= of_batch.lessons[0].weighting.scalars | {"loss": loss} | counts
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(state.step - state.skipped_steps))
        return apply_gradient(state, loss, gradient, metrics, optimizer)

    return train_step


def apply_gradient(
    state: TrainState, loss: jax.Array, gradient: Any, metrics: Metrics, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics with what it told; what is not finite is skipped."""
    gradient_norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

    def update() -> tuple[Any, Any]:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        return optax.apply_updates(state.params, updates), optimizer_state

    params, optimizer_state = jax.lax.cond(finite, update, lambda: (state.params, state.optimizer_state))
    skipped = jnp.where(finite, 0, 1)
    new_state = state._replace(
        step=state.step + 1,
        params=params,
        optimizer_state=optimizer_state,
        skipped_steps=state.skipped_steps + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
    )
    return new_state, metrics | {
        "gradient_norm": gradient_norm,
        "skipped_steps": new_state.skipped_steps,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }
