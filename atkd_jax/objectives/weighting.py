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
    """What multiplies each term at each token.

    Attributes:
      loss: term -> float32 `[...]`; the loss is the sum of weight times term over terms and tokens.
      metrics: metric -> term -> float32 `[...]`; a metric is summed like the loss, without a gradient.
      scalars: numbers that the weights themselves already tell, such as the gate's threshold.
    """

    loss: dict[str, jax.Array]
    metrics: dict[str, dict[str, jax.Array]]
    scalars: dict[str, jax.Array]


class Objective(NamedTuple):
    """How tokens are weighted and which per-token terms the weights multiply.

    Attributes:
      weighting: `(teacher_target_log_probs, mask) -> Weighting`, both `[...]`.
      terms: `(student_logits, teacher_logits, targets) -> Terms`; logits are `[..., vocab]`.
      needs_teacher_probability: whether `weighting` reads its first argument. Where it does not, the teacher's pass
        may leave it out.
    """

    weighting: Callable[[jax.Array, jax.Array], Weighting]
    terms: Callable[[jax.Array, jax.Array, jax.Array], Terms]
    needs_teacher_probability: bool


def weighted_sum(weights: Mapping[str, jax.Array], terms: Terms) -> jax.Array:
    """Returns the float32 sum of `weights[name] * terms[name]` over names and tokens; weight 0 silences any term."""
    total = jnp.zeros((), jnp.float32)
    for name, weight in weights.items():
        total += jnp.sum(jnp.where(weight != 0, weight * terms[name], 0.0))
    return total


def evaluate_terms(
    objective: Objective,
    weighting: Weighting,
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns a micro-batch's share of the loss and of the metrics.

    Shares of the parts of a batch add up to the whole batch's numbers. The teacher gets no gradient. Logits where
    `mask` is false are replaced before any softmax, so that whatever stands there, NaN included, is never read.

    Args:
      objective: Which terms there are.
      weighting: The slice of the step's weights that belongs to these tokens.
      student_logits: `[..., vocab]`, float32 or bfloat16.
      teacher_logits: `[..., vocab]`.
      targets: int32 `[...]`.
      mask: bool `[...]`, true where a token counts.
    """
    counted = mask[..., None]
    terms = objective.terms(
        jnp.where(counted, student_logits, 0),
        jax.lax.stop_gradient(jnp.where(counted, teacher_logits, 0)),
        jnp.where(mask, targets, 0),
    )
    metrics = {name: weighted_sum(weights, jax.lax.stop_gradient(terms)) for name, weights in weighting.metrics.items()}
    return weighted_sum(weighting.loss, terms), metrics
