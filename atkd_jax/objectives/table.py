"""The table of objectives: a name in the config, and the weights and terms that it stands for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives.weighting import Objective, Terms, Weighting

Divergence = Callable[..., jax.Array]

# Objectives that are one divergence, averaged over the counted tokens. A new one is a line here.
DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
}


def make_objective(config: ObjectiveConfig) -> Objective:
    """Returns the objective that the config names, with the data's cross-entropy mixed in as it says."""
    if config.name == "atkd":
        distillation = _atkd(config)
    elif config.name == "cross_entropy":
        distillation = _cross_entropy()
    else:
        distillation = _divergence(config.name, DIVERGENCES[config.name], config.temperature)
    return _mixed_with_cross_entropy(distillation, config.cross_entropy_weight)


def _mean_weights(mask: jax.Array) -> jax.Array:
    counted = mask.astype(jnp.float32)
    return counted / jnp.maximum(jnp.sum(counted), 1.0)


def _divergence(name: str, divergence: Divergence, temperature: float) -> Objective:
    def weighting(_: jax.Array, mask: jax.Array) -> Weighting:
        mean = _mean_weights(mask)
        return Weighting({name: mean}, {name: {name: mean}, "cross_entropy": {"cross_entropy": mean}}, {})

    def terms(student_logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array) -> Terms:
        return {
            name: divergence(student_logits=student_logits, teacher_logits=teacher_logits, temperature=temperature),
            "cross_entropy": losses.cross_entropy(student_logits=student_logits, targets=targets),
        }

    return Objective(weighting, terms, needs_teacher_probability=False)


def _cross_entropy() -> Objective:
    def weighting(_: jax.Array, mask: jax.Array) -> Weighting:
        mean = {"cross_entropy": _mean_weights(mask)}
        return Weighting(mean, {"cross_entropy": mean}, {})

    def terms(student_logits: jax.Array, _: jax.Array, targets: jax.Array) -> Terms:
        return {"cross_entropy": losses.cross_entropy(student_logits=student_logits, targets=targets)}

    return Objective(weighting, terms, needs_teacher_probability=False)


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

    def terms(student_logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array) -> Terms:
        parts = losses.decoupled_terms(
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            targets=targets,
            temperature=config.temperature,
            direction=config.direction,
        )
        cross_entropy = (
            -parts.student_target_log_prob
            if config.temperature == 1.0
            else losses.cross_entropy(student_logits=student_logits, targets=targets)
        )
        return {"target_kd": parts.target_kd, "diversity_kd": parts.diversity_kd, "cross_entropy": cross_entropy}

    return Objective(one_gate if config.gate_scope == "global" else per_microbatch, terms, True)


def _atkd_weighting(
    target_log_probs: jax.Array,
    mask: jax.Array,
    hard: jax.Array,
    target_weight: jax.Array,
    diversity_weight: jax.Array,
) -> Weighting:
    mean, mean_easy, mean_hard = _mean_weights(mask), _mean_weights(mask & ~hard), _mean_weights(mask & hard)
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
        loss["cross_entropy"] = loss.get("cross_entropy", 0.0) + cross_entropy_weight * _mean_weights(mask)
        return inner._replace(loss=loss)

    return distillation._replace(weighting=weighting)
