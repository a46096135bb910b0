"""ReffAKD's delta for soft labels that are given by states and a head, which cannot hold a diagonal of their own."""

import jax
import jax.numpy as jnp

from atkd_jax.objectives.weighting import Objective, Weighting


def raised_soft_labels(forward_kl: Objective, *, delta: float) -> Objective:
    """Returns forward KL to the soft labels whose own token's logit is raised by delta.

    With p the soft label, y its token and Z = 1 + p_y (e^delta - 1), the raised one is p / Z + (1 - 1 / Z) onehot(y).
    Cross-entropy is linear in it, so that KL to it is KL(p || student) / Z + (1 - 1 / Z) CE(y), up to entropies, which
    do not depend on the student. The loss here is without these: its gradient is the KL's, its value differs by a
    constant of each token.

    Args:
      forward_kl: At temperature 1.
      delta: Not negative.
    """

    def weighting(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        inner = forward_kl.weighting(target_log_probs, mask)
        share = 1 / (1 + jnp.exp(target_log_probs) * jnp.expm1(jnp.float32(delta)))
        weights = inner.loss["divergence"]
        return inner._replace(loss={"divergence": weights * share, "cross_entropy": weights * (1 - share)})

    return forward_kl._replace(weighting=weighting, needs_teacher_probability=True)
