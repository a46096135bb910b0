"""From hidden states to one scalar: shifting, stopping gradients, weighting and averaging happen here alone."""

from atkd_jax.objectives.gates import Gate, make_gate
from atkd_jax.objectives.head_loss import Heads, Tokens, head_loss, target_log_probs
from atkd_jax.objectives.shifting import next_token_targets, paired_states
from atkd_jax.objectives.table import make_objective
from atkd_jax.objectives.weighting import Divergence, Objective, Weighting, weighted_sum

__all__ = [
    "Divergence",
    "Gate",
    "Heads",
    "Objective",
    "Tokens",
    "Weighting",
    "head_loss",
    "make_gate",
    "make_objective",
    "next_token_targets",
    "paired_states",
    "target_log_probs",
    "weighted_sum",
]
