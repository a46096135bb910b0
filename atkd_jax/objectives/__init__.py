"""From logits and masks to one scalar: shifting, stopping gradients, weighting and averaging happen here alone."""

from atkd_jax.objectives.shifting import next_token_targets
from atkd_jax.objectives.table import make_objective
from atkd_jax.objectives.weighting import Objective, Weighting, evaluate_terms, weighted_sum

__all__ = ["Objective", "Weighting", "evaluate_terms", "make_objective", "next_token_targets", "weighted_sum"]
