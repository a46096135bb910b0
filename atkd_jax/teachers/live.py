"""A live teacher: its pass over a step's micro-batches, before the student's."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax import losses
from atkd_jax.models.decoder import Decoder
from atkd_jax.objectives import next_token_targets, target_log_probs
from atkd_jax.sharding import constrain


class TeacherSignal(NamedTuple):
    """What the teacher says about a step's tokens, kept far smaller than logits.

    Attributes:
      hidden: `[microbatches, rows, length, width]`, the states after the final norm; with the teacher's head they give
        its logits. None where `sparse` stands for them.
      target_log_probs: float32 `[microbatches, rows, length]`, log p(target); 0 where a token does not count, and
        everywhere if it was not asked for.
      sparse: what a cache of few words a token says, arrays `[microbatches, rows, length, ...]`.
    """

    hidden: jax.Array | None
    target_log_probs: jax.Array
    sparse: losses.TopKSignal | losses.RestSample | None = None


def teacher_signal(
    graphdef: nnx.GraphDef[Decoder],
    params: Any,
    *frozen: Any,
    batch: dict[str, jax.Array],
    targets: jax.Array,
    mask: jax.Array,
    vocab_size: int,
    with_target_log_probs: bool,
    mesh: Mesh | None = None,
) -> TeacherSignal:
    """Runs the teacher over the micro-batches, one after the other.

    Args:
        graphdef: The teacher's structure.
        params: Its weights.
        *frozen: What of a student is not trained, where it is one that is asked.
        batch: tokens, positions and segment_ids, `[microbatches, rows, length]`.
        targets: int32 `[microbatches, rows, length]`.
        mask: bool, the same shape, true where a token counts.
        vocab_size: The tokenizer's number of ids; columns of the head beyond it are padding.
        with_target_log_probs: False spares the product with the head.
        mesh: How the teacher is split over devices; None or a single device splits nothing.
    """
    teacher = nnx.merge(graphdef, params, *frozen)
    head = teacher.head_matrix()

    def one(part: tuple[dict[str, jax.Array], jax.Array, jax.Array]) -> TeacherSignal:
        inputs, part_targets, part_mask = part
        hidden = teacher.hidden_states(**inputs, mesh=mesh)
        if not with_target_log_probs:
            return TeacherSignal(hidden, jnp.zeros(part_mask.shape, jnp.float32))
        found = target_log_probs(
            hidden=hidden,
            head=head,
            targets=part_targets,
            mask=part_mask,
            vocab_size=vocab_size,
            softcap=teacher.logit_softcap,
            mesh=mesh,
        )
        return TeacherSignal(hidden, found)

    parts = ({name: batch[name] for name in ("tokens", "positions", "segment_ids")}, targets, mask)
    # The rows may have come as another model's mesh splits them.
    parts = jax.tree.map(lambda array: constrain(array, mesh, None, "rows", "length"), parts)
    if mask.shape[0] == 1:  # Without a loop around it, the compiler shares what it can with the loss.
        return jax.tree.map(lambda array: array[None], one(jax.tree.map(lambda array: array[0], parts)))
    return jax.lax.map(one, parts)


def batch_log_probs(
    graphdef: nnx.GraphDef[Decoder],
    params: Any,
    *frozen: Any,
    batch: Mapping[str, jax.Array],
    vocab_size: int,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Asks a model what it gives the targets of one batch in one piece.

    Args:
        graphdef: The model's structure.
        params: Its weights.
        *frozen: What of a student is not trained.
        batch: tokens, positions, segment_ids and loss_mask, `[rows, length]`.
        vocab_size: The tokenizer's number of ids.
        mesh: How the model is split over devices.

    Returns:
        float32 `[rows, length]`, log p(target), 0 where a token does not count; and bool, where one counts.
    """
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    signal = teacher_signal(
        graphdef,
        params,
        *frozen,
        batch={name: batch[name][None] for name in ("tokens", "positions", "segment_ids")},
        targets=targets[None],
        mask=mask[None],
        vocab_size=vocab_size,
        with_target_log_probs=True,
        mesh=mesh,
    )
    return signal.target_log_probs[0], mask
