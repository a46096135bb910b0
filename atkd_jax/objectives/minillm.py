"""MiniLLM: the policy gradient of KL(student || teacher) of whole texts, as weights on the terms of their tokens.

A step's text was written by the student as it is, alone or mixed with the teacher, and is learned from once. So what
multiplies the gradient of a token's log q, and what that of its single-step KL, is known before the student's pass with
a gradient: they are weights like those of any other objective, and no logits are ever whole.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives.weighting import Divergence, Objective, Weighting, mean_weights

# PPO's interval, in the paper and in the released code.
_CLIP = 0.2


class Preset(NamedTuple):
    """In what the paper and the code that its authors released differ.

    Attributes:
      discount: of rewards, per token.
      first_reward: whether a token's return begins with its own reward or with the next one's.
      is_whitened: whether returns are whitened over the batch.
      reward_scale: multiplies rewards; whitening takes it out again.
      reward_clip: the largest size of a reward; None cuts nothing.
      weighs_single_step: whether the single-step KL has importance weights.
      on_data: the objective of the rows that hold the data's own text.
    """

    discount: float
    first_reward: str
    is_whitened: bool
    reward_scale: float
    reward_clip: float | None
    weighs_single_step: bool
    on_data: ObjectiveConfig


PRESETS = {
    "minillm_paper": Preset(1.0, "next", False, 1.0, None, True, ObjectiveConfig(name="cross_entropy")),
    # The code divides rewards by its reward scaling of 0.5. Half of its loss on plain text is KL to the teacher.
    "minillm_lmops": Preset(
        0.95, "own", True, 2.0, 100.0, False, ObjectiveConfig(name="forward_kl", cross_entropy_weight=0.5)
    ),
}


def minillm(config: ObjectiveConfig, *, teacher_weight: float, on_data: Objective) -> Objective:
    """Returns the objective of written text, with that of the data's beside it.

    Its weights are such that the gradient is that of the mean over the written tokens of the clipped surrogate plus the
    single-step KL. The loss's value is not that of the surrogate, which `surrogate` among the metrics is.

    Args:
      config: Of a name in `PRESETS`; `adaptive` puts ATKD's gate on the single-step KL.
      teacher_weight: a of p~ = a p + (1 - a) q, from which the text was drawn; 0 where the student wrote alone.
      on_data: The objective of the preset's `on_data`.
    """
    preset = PRESETS[config.name]

    def weighting(teacher: jax.Array, mask: jax.Array, student: jax.Array) -> Weighting:
        sampled = losses.mixed_log_probs(
            student_log_probs=student, teacher_log_probs=teacher, teacher_weight=teacher_weight
        )
        importance = losses.importance_weights(student_log_probs=student, sampled_log_probs=sampled, mask=mask)
        rewards = losses.reverse_kl_rewards(
            student_log_probs=student,
            teacher_log_probs=teacher,
            mask=mask,
            scale=preset.reward_scale,
            clip=preset.reward_clip,
        )
        returns = losses.discounted_returns(
            rewards=rewards,
            mask=mask,
            discount=preset.discount,
            first_reward=preset.first_reward,
            normalizer="remaining",
        )
        advantages = losses.whitened(values=returns, mask=mask) if preset.is_whitened else returns
        mean = mean_weights(mask)

        def surrogate(student: jax.Array) -> jax.Array:
            return losses.clipped_surrogate(
                student_log_probs=student,
                sampled_log_probs=sampled,
                advantages=advantages,
                mask=mask,
                clip=_CLIP,
            )

        value, pull_back = jax.vjp(surrogate, student)
        # The cross-entropy is -log q.
        loss = {"cross_entropy": -pull_back(mean)[0]}
        step_weights = mean * importance if preset.weighs_single_step else mean
        loss |= _single_step(config, teacher, mask)(step_weights)
        scalars = {
            "surrogate": jnp.sum(mean * value),
            "reward_mean": jnp.sum(mean * rewards),
            "importance_mean": jnp.sum(mean * importance),
        }
        return Weighting(loss, {"written_cross_entropy": {"cross_entropy": mean}}, scalars)

    return Objective(
        weighting,
        Divergence("reverse_kl", config.beta, config.alpha, config.temperature),
        needs_teacher_probability=True,
        needs_student_probability=True,
        on_data=on_data,
    )


def _single_step(
    config: ObjectiveConfig, teacher: jax.Array, mask: jax.Array
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns what turns the single step's weights, whose mean is a token's share, into weights of its terms."""
    if not config.adaptive:
        return lambda weights: {"divergence": weights}
    hard = losses.hard_token_mask(target_log_probs=teacher, mask=mask, hard_fraction=config.hard_fraction)
    gated = losses.atkd_token_weights(
        hard=hard, mask=mask, easy_weight=config.easy_weight, normalizer=config.normalizer
    )
    count = jnp.sum(mask).astype(jnp.float32)
    return lambda weights: {
        name: weights * count * gate for name, gate in zip(("target_kd", "diversity_kd"), gated, strict=True)
    }
