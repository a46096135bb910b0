"""Which tokens of a batch ATKD's gate calls hard, for whatever is told of easy and hard tokens."""

from collections.abc import Callable

import jax

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig

Gate = Callable[[jax.Array, jax.Array], jax.Array]


def make_gate(config: ObjectiveConfig) -> Gate | None:
    """Returns `(teacher_target_log_probs, mask) -> hard`, bool, all `[microbatches, rows, length]`.

    Of ATKD it is the gate that the loss has; of other objectives the one that it would have, by `hard_fraction`. None
    where the teacher reads other tokens than the student, whose probability nothing tells.

    Args:
        config: The objective.
    """
    if config.pairs_tokens:
        return None

    def one_gate(target_log_probs: jax.Array, mask: jax.Array) -> jax.Array:
        return losses.hard_token_mask(target_log_probs=target_log_probs, mask=mask, hard_fraction=config.hard_fraction)

    return one_gate if config.gate_scope == "global" else jax.vmap(one_gate)
