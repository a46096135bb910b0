"""From hidden states to one scalar: shifting, stopping gradients, weighting and averaging happen here alone."""

from atkd_jax.objectives.counted import map_counted
from atkd_jax.objectives.head_loss import Tokens, head_loss, project
from atkd_jax.objectives.shifting import next_token_targets
from atkd_jax.objectives.table import make_objective
from atkd_jax.objectives.weighting import Objective, Weighting, evaluate_terms, weighted_sum

__all__ = [
    "Objective",
    "Tokens",
    "Weighting",
    "evaluate_terms",
    "head_loss",
    "make_objective",
    "map_counted",
    "next_token_targets",
    "project",
    "weighted_sum",
]
