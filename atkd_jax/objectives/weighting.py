"""An objective as a weighted sum of per-token terms, so that its parts add up exactly.

The weights of a step's tokens depend on the teacher and the mask alone. They are formed once, over the whole batch of
the optimizer step; after that every micro-batch and every device only adds `weight * term`, and neither the loss nor
its gradient depends on how the batch was cut.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Terms = Mapping[str, jax.Array]


class Weighting(NamedTuple):
    """What multiplies each term at each token. Terms are those of `losses.linear_weighted_sum`.

    Attributes:
      loss: term -> float32 `[...]`; the loss is the sum of weight times term over terms and tokens.
      metrics: metric -> term -> float32 `[...]`; a metric is summed like the loss, without a gradient.
      scalars: numbers that the weights themselves already tell, such as the gate's threshold.
    """

    loss: dict[str, jax.Array]
    metrics: dict[str, dict[str, jax.Array]]
    scalars: dict[str, jax.Array]


class Divergence(NamedTuple):
    """Which divergence the terms are of.

    Attributes:
      name: one of `losses.linear_divergence`, or "universal_logit".
      beta: of generalized_jsd.
      alpha: of the skewed KLs.
      temperature: divides both models' logits.
    """

    name: str = "forward_kl"
    beta: float = 0.5
    alpha: float = 0.1
    temperature: float = 1.0


class Objective(NamedTuple):
    """How tokens are weighted and which divergence the weights' terms are of.

    Attributes:
      weighting: `(teacher_target_log_probs, mask) -> Weighting`, both `[...]`.
      divergence: what "divergence", "target_kd" and "diversity_kd" mean.
      needs_teacher_probability: whether `weighting` reads its first argument. Where it does not, the teacher's pass
        may leave it out.
      needs_student_probability: whether `weighting` takes the student's log p(target) as a third argument.
      needs_examples: whether `weighting` also takes `segment_ids`, `[...]`, and `step`, the optimizer's, by name.
      on_data: what the tokens of the data's own text are learned by, where this objective is for written text alone.
      pairs_tokens: whether the teacher reads the text in its own tokens. Then `weighting` takes, in place of anything
        that the teacher says of the targets, where a counted token has one of the teacher's beside it, as its third
        argument.
    """

    weighting: Callable[..., Weighting]
    divergence: Divergence
    needs_teacher_probability: bool
    needs_student_probability: bool = False
    needs_examples: bool = False
    on_data: "Objective | None" = None
    pairs_tokens: bool = False


def mean_weights(mask: jax.Array) -> jax.Array:
    """Returns the weights of a mean over the counted tokens, float32 `[...]`; 0 everywhere if none counts."""
    counted = mask.astype(jnp.float32)
    return counted / jnp.maximum(jnp.sum(counted), 1.0)


def weighted_sum(weights: Mapping[str, jax.Array], terms: Terms) -> jax.Array:
    """Returns the float32 sum of `weights[name] * terms[name]` over names and tokens; weight 0 silences any term."""
    total = jnp.zeros((), jnp.float32)
    for name, weight in weights.items():
        total += jnp.sum(jnp.where(weight != 0, weight * terms[name], 0.0))
    return total
