"""A live teacher: its pass over a step's micro-batches, before the student's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax import losses
from atkd_jax.models.decoder import Decoder


class TeacherSignal(NamedTuple):
    """What the teacher says about a step's tokens, kept far smaller than logits.

    Attributes:
      hidden: `[microbatches, rows, length, width]`, the states after the final norm; with the teacher's head they give
        its logits.
      target_log_probs: float32 `[microbatches, rows, length]`, log p(target); 0 where a token does not count, and
        everywhere if it was not asked for.
    """

    hidden: jax.Array
    target_log_probs: jax.Array


def teacher_signal(
    graphdef: nnx.GraphDef[Decoder],
    params: Any,
    *,
    batch: dict[str, jax.Array],
    targets: jax.Array,
    mask: jax.Array,
    with_target_log_probs: bool,
) -> TeacherSignal:
    """Runs the teacher over the micro-batches, one after the other.

    Args:
      graphdef: The teacher's structure.
      params: Its weights.
      batch: tokens, positions and segment_ids, `[microbatches, rows, length]`.
      targets: int32 `[microbatches, rows, length]`.
      mask: bool, the same shape, true where a token counts.
      with_target_log_probs: False spares the product with the head.
    """
    teacher = nnx.merge(graphdef, params)

    def one(part: dict[str, jax.Array]) -> TeacherSignal:
        hidden = teacher.hidden_states(part["tokens"], positions=part["positions"], segment_ids=part["segment_ids"])
        if not with_target_log_probs:
            return TeacherSignal(hidden, jnp.zeros(part["mask"].shape, jnp.float32))
        logits = jnp.where(part["mask"][..., None], teacher.logits(hidden), 0)
        log_probs = losses.target_log_prob(logits=logits, targets=part["targets"])
        return TeacherSignal(hidden, jnp.where(part["mask"], log_probs, 0.0))

    parts = {name: batch[name] for name in ("tokens", "positions", "segment_ids")} | {"targets": targets, "mask": mask}
    if mask.shape[0] == 1:  # Without a loop around it, the compiler shares the head's product with the loss.
        return jax.tree.map(lambda array: array[None], one(jax.tree.map(lambda array: array[0], parts)))
    return jax.lax.map(one, parts)
