"""The table of objectives: a name in the config, and the weights and the divergence that it stands for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives.instance_weighting import weighted_by_instance
from atkd_jax.objectives.minillm import PRESETS, minillm
from atkd_jax.objectives.raised_labels import raised_soft_labels
from atkd_jax.objectives.weighting import Divergence, Objective, Weighting, mean_weights


def make_objective(config: ObjectiveConfig, *, teacher_weight: float = 0.0, steps: int = 1) -> Objective:
    """Returns the objective that the config names, with the data's cross-entropy mixed in as it says.

    Args:
      config: The objective.
      teacher_weight: The teacher's share in writing each token, for objectives that weigh text by who wrote it.
      steps: Optimizer steps of the whole run, for weights that follow a schedule.
    """
    if config.name in PRESETS:
        return minillm(config, teacher_weight=teacher_weight, on_data=make_objective(PRESETS[config.name].on_data))
    config = _adapted(config) if config.adaptive else config
    distillation = OBJECTIVES.get(config.name, _mean_divergence)(config)
    if config.tokens != "all":
        distillation = _on_group(distillation, config)
    if config.token_similarity.delta:
        distillation = raised_soft_labels(distillation, delta=config.token_similarity.delta)
    if config.instance_weighting.is_on:
        return weighted_by_instance(distillation, config.instance_weighting, steps=steps)
    return _mixed_with_cross_entropy(distillation, config.cross_entropy_weight)


def _on_group(objective: Objective, config: ObjectiveConfig) -> Objective:
    """Returns the objective over the easy or the hard tokens alone, as ATKD's gate parts them; metrics likewise."""

    def weighting(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        hard = losses.hard_token_mask(target_log_probs=target_log_probs, mask=mask, hard_fraction=config.hard_fraction)
        return objective.weighting(target_log_probs, mask & (hard if config.tokens == "hard" else ~hard))

    return objective._replace(weighting=weighting, needs_teacher_probability=True)


def _adapted(config: ObjectiveConfig) -> ObjectiveConfig:
    """Returns the config of ATKD's gate on the divergence that the name says."""
    if config.name == "atkd":
        return config
    direction = {"forward_kl": "forward", "reverse_kl": "reverse"}.get(config.name)
    on = {"divergence": config.name} if direction is None else {"direction": direction}
    return config.model_copy(update={"name": "atkd", **on})


def _of(config: ObjectiveConfig, name: str) -> Divergence:
    return Divergence(name, config.beta, config.alpha, config.temperature)


def _mean_divergence(config: ObjectiveConfig) -> Objective:
    def weighting(_: jax.Array, mask: jax.Array) -> Weighting:
        mean = mean_weights(mask)
        metrics = {config.name: {"divergence": mean}, "cross_entropy": {"cross_entropy": mean}}
        return Weighting({"divergence": mean}, metrics, {})

    return Objective(weighting, _of(config, config.name), needs_teacher_probability=False)


def _cross_entropy(config: ObjectiveConfig) -> Objective:
    def weighting(_: jax.Array, mask: jax.Array) -> Weighting:
        mean = {"cross_entropy": mean_weights(mask)}
        return Weighting(mean, {"cross_entropy": mean}, {})

    return Objective(weighting, _of(config, "forward_kl"), needs_teacher_probability=False)


def _universal_logit(config: ObjectiveConfig) -> Objective:
    def weighting(_: jax.Array, mask: jax.Array, paired: jax.Array | None = None) -> Weighting:
        paired = mask if paired is None else mask & paired
        mean, mean_paired = mean_weights(mask), mean_weights(paired)
        loss = {"cross_entropy": mean, "divergence": config.universal_logit_weight * mean_paired}
        metrics = {"universal_logit": {"divergence": mean_paired}, "cross_entropy": {"cross_entropy": mean}}
        return Weighting(loss, metrics, {"paired_share": jnp.sum(jnp.where(paired, mean, 0.0))})

    return Objective(weighting, _of(config, config.name), needs_teacher_probability=False, pairs_tokens=True)


def _parts_metrics(mean: jax.Array) -> dict[str, dict[str, jax.Array]]:
    return {
        "cross_entropy": {"cross_entropy": mean},
        "target_kd": {"target_kd": mean},
        "diversity_kd": {"diversity_kd": mean},
    }


def _decoupled_kd(config: ObjectiveConfig) -> Objective:
    def weighting(_: jax.Array, mask: jax.Array) -> Weighting:
        mean = mean_weights(mask)
        loss = {"target_kd": config.target_weight * mean, "diversity_kd": config.diversity_weight * mean}
        return Weighting(loss, _parts_metrics(mean), {})

    return Objective(weighting, _of(config, _decoupled_name(config)), needs_teacher_probability=False)


def _uncertainty_weighted_kl(config: ObjectiveConfig) -> Objective:
    def weighting(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        mean = mean_weights(mask)
        uncertainty = -jnp.expm1(target_log_probs)
        certain = uncertainty <= 0
        damping = jnp.where(certain, 0.0, jnp.where(certain, 1.0, uncertainty) ** config.gamma)
        loss = {"target_kd": mean, "diversity_kd": damping * mean}
        scalars = {"uncertainty_mean": jnp.sum(jnp.where(mask, uncertainty, 0.0) * mean)}
        return Weighting(loss, _parts_metrics(mean), scalars)

    return Objective(weighting, _of(config, "forward_kl"), needs_teacher_probability=True)


def _atkd(config: ObjectiveConfig) -> Objective:
    def one_gate(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        hard = losses.hard_token_mask(target_log_probs=target_log_probs, mask=mask, hard_fraction=config.hard_fraction)
        target_weight, diversity_weight = losses.atkd_token_weights(
            hard=hard, mask=mask, easy_weight=config.easy_weight, normalizer=config.normalizer
        )
        return _atkd_weighting(target_log_probs, mask, hard, target_weight, diversity_weight)

    def per_microbatch(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        gates = jax.vmap(one_gate)(target_log_probs, mask)
        share = 1.0 / mask.shape[0]
        loss, metrics = jax.tree.map(lambda weights: weights * share, (gates.loss, gates.metrics))
        return Weighting(loss, metrics, jax.tree.map(jnp.mean, gates.scalars))

    weighting = one_gate if config.gate_scope == "global" else per_microbatch
    return Objective(weighting, _of(config, _decoupled_name(config)), needs_teacher_probability=True)


def _decoupled_name(config: ObjectiveConfig) -> str:
    return config.divergence or f"{config.direction}_kl"


def _atkd_weighting(
    target_log_probs: jax.Array,
    mask: jax.Array,
    hard: jax.Array,
    target_weight: jax.Array,
    diversity_weight: jax.Array,
) -> Weighting:
    mean, mean_easy, mean_hard = mean_weights(mask), mean_weights(mask & ~hard), mean_weights(mask & hard)
    uncertainty = jnp.where(mask, -jnp.expm1(target_log_probs), 0.0)
    metrics = {
        "cross_entropy": {"cross_entropy": mean},
        "target_kd_easy": {"target_kd": mean_easy},
        "target_kd_hard": {"target_kd": mean_hard},
        "diversity_kd_easy": {"diversity_kd": mean_easy},
        "diversity_kd_hard": {"diversity_kd": mean_hard},
    }
    scalars = {
        "easy_share": jnp.sum(jnp.where(hard, 0.0, mean)),
        "uncertainty_threshold": jnp.min(jnp.where(mask & hard, uncertainty, jnp.inf), initial=1.0),
        "uncertainty_easy": jnp.sum(mean_easy * uncertainty),
        "uncertainty_hard": jnp.sum(mean_hard * uncertainty),
    }
    return Weighting({"target_kd": target_weight, "diversity_kd": diversity_weight}, metrics, scalars)


def _mixed_with_cross_entropy(distillation: Objective, cross_entropy_weight: float) -> Objective:
    if cross_entropy_weight == 0.0:
        return distillation

    def weighting(target_log_probs: jax.Array, mask: jax.Array) -> Weighting:
        inner = distillation.weighting(target_log_probs, mask)
        loss = {name: (1.0 - cross_entropy_weight) * weights for name, weights in inner.loss.items()}
        loss["cross_entropy"] = loss.get("cross_entropy", 0.0) + cross_entropy_weight * mean_weights(mask)
        return inner._replace(loss=loss)

    return distillation._replace(weighting=weighting)


# What is not here is the mean of the divergence of its name over the counted tokens.
OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "atkd": _atkd,
    "cross_entropy": _cross_entropy,
    "decoupled_kd": _decoupled_kd,
    "uncertainty_weighted_kl": _uncertainty_weighted_kl,
    "universal_logit": _universal_logit,
}
