"""AdaKD around any objective: alpha of its weights and 1 - alpha of cross-entropy's, with an alpha of every example.

The loss of a batch is a sum over tokens of alpha * w_kd * term + (1 - alpha) * w_ce * cross-entropy. w_kd are the
weights of the objective inside, ATKD's gate over the whole batch included, w_ce those of the mean, and alpha is that of
the token's example. At alpha 1 it is the objective inside, at alpha 0 cross-entropy; no sum of alphas divides anything.
"""

import jax
import jax.numpy as jnp

from atkd_jax import losses
from atkd_jax.config_neighbours import InstanceWeightingConfig
from atkd_jax.objectives.weighting import Objective, Weighting, mean_weights


def weighted_by_instance(distillation: Objective, config: InstanceWeightingConfig, *, steps: int) -> Objective:
    """Returns the objective with AdaKD's weights, whose `weighting` also takes `segment_ids` and `step`.

    Args:
      distillation: What is learned from the teacher.
      config: Both ends of the steepness, and the threshold.
      steps: Optimizer steps of the whole run, over which the steepness falls.

    Raises:
      ValueError: from `weighting`, if the threshold is not known.
    """

    def weighting(
        target_log_probs: jax.Array, mask: jax.Array, *, segment_ids: jax.Array, step: jax.Array
    ) -> Weighting:
        if config.threshold is None:
            raise ValueError(
                "weighted_by_instance: the threshold must be known before examples are weighed, but it is None; "
                "measure the teacher's mean loss first"
            )

        def of_example(values: jax.Array) -> jax.Array:
            return losses.example_means(values=values, mask=mask, segment_ids=segment_ids)

        inner = distillation.weighting(target_log_probs, mask)
        of_tokens, of_examples = mean_weights(mask), _example_mean_weights(mask, segment_ids)
        task_loss = of_example(-target_log_probs)
        steepness = losses.instance_steepness(step=step, steps=steps, start=config.k_start or 0, end=config.k_end or 0)
        alpha = losses.instance_weights(teacher_task_loss=task_loss, threshold=config.threshold, steepness=steepness)
        by_example = config.averaging == "examples"
        emphasis = of_examples / jnp.where(mask, of_tokens, 1) if by_example else jnp.ones_like(of_tokens)
        loss = {name: alpha * emphasis * weights for name, weights in inner.loss.items()}
        loss["cross_entropy"] = (1 - alpha) * emphasis * of_tokens
        scalars = {
            "instance_weight_mean": jnp.sum(of_examples * alpha),
            "instance_weight_above_half": jnp.sum(jnp.where(alpha > 0.5, of_examples, 0)),
            "instance_steepness": steepness,
            "teacher_task_loss": jnp.sum(jnp.where(mask, of_examples * task_loss, 0)),
        }
        return Weighting(loss, inner.metrics, inner.scalars | scalars)

    return distillation._replace(weighting=weighting, needs_teacher_probability=True, needs_examples=True)


def _example_mean_weights(mask: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Returns the weights of a mean over examples of the mean over each one's counted tokens."""
    shares = losses.example_shares(mask=mask, segment_ids=segment_ids)
    return shares / jnp.maximum(jnp.sum(shares), 1)
