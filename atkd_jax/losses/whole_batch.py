"""Objectives over a whole batch: one scalar, and a flat dict of scalars that say how it came about.

They do not shift: the target at an index is predicted by the logits at that index. Everything at an uncounted position,
NaN and targets outside of the vocabulary included, is replaced before any softmax and has no influence on value or
gradient.
"""

from __future__ import annotations

from numbers import Real

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.adaptive import decoupled_divergence
from atkd_jax.losses.decoupling import DecoupledTerms, counted_terms, decoupled_name
from atkd_jax.losses.gate import NORMALIZERS, atkd_token_weights, hard_token_mask, hard_token_threshold
from atkd_jax.losses.log_space import target_margin


def atkd(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    hard_fraction: float = 0.5,
    easy_weight: float = 0.2,
    direction: str = "forward",
    normalizer: str = "group_mean",
    temperature: float = 1.0,
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the ATKD loss of a batch, in nats, and its diagnostics.

    loss = easy_weight * mean_easy(DKD) + (1 - easy_weight) * mean_hard(TKD + DKD). Hard are the tokens of which the
    teacher is least sure (`hard_token_mask`); of easy tokens the student learns the diversity alone. Each mean is over
    its own group, and an empty group gives 0. The gate reads the true teacher's UNC, at temperature 1 and in either
    direction. With a `divergence`, TKD and DKD are the two parts of that one instead of KL's (`decoupled_divergence`).

    The gate is over all tokens that are passed. To split a batch into micro-batches without changing the loss, use
    `hard_token_mask`, `atkd_token_weights` and `decoupled_divergence`.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      mask: bool `[...]`, True where a token counts.
      hard_fraction: the share of hard tokens, a Python number in [0, 1].
      easy_weight: lambda, in [0, 1]; may be a traced scalar.
      direction: "forward" for KLs from the teacher to the student, "reverse" for the other way.
      normalizer: "group_mean" as above; "total_tokens" divides both sums by the number of all counted tokens.
      temperature: divides both models' logits; the loss is not scaled back by temperature^2.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.

    Returns:
      The loss, a scalar, and a dict of scalars: `counted_tokens`, `easy_share`, `uncertainty_threshold`,
      `uncertainty_mean`, and `target_kd_hard`, `target_kd_easy`, `diversity_kd_hard`, `diversity_kd_easy`, the means of
      TKD and DKD in each group. All are 0 where no token counts.

    Gradient:
      Per token that of `decoupled_divergence` with the weights of `atkd_token_weights`. The gate is constant.

    Raises:
      TypeError: logits are not floating, targets not integer, or mask not boolean.
      ValueError: shapes do not fit, a number is out of range, or direction or normalizer is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
      >>> teacher = jnp.array([[2.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
      >>> targets, mask = jnp.array([0, 0, 2]), jnp.array([True, True, True])
      >>> loss, diagnostics = losses.atkd(
      ...     student_logits=student, teacher_logits=teacher, targets=targets, mask=mask
      ... )
      >>> print(f"{loss:.4f} {diagnostics['easy_share']:.2f}")
      0.2044 0.33

    Reference:
      Zhong et al., Revisiting Knowledge Distillation for Autoregressive Language Models, arXiv 2402.11890, section 3.
    """
    name = decoupled_name("atkd", direction, divergence)
    validation.choice("atkd", "normalizer", normalizer, NORMALIZERS)
    hard_fraction = validation.fraction("atkd", "hard_fraction", hard_fraction)
    easy_weight = validation.weight("atkd", "easy_weight", easy_weight, largest=1.0)
    student, teacher, targets, mask = _checked("atkd", student_logits, teacher_logits, targets, mask)
    terms = _counted_terms("atkd", name, student, teacher, targets, mask, temperature, beta, alpha)
    terms = _at_temperature_one(terms, teacher, targets, mask, temperature)
    return gated(terms, mask, hard_fraction, easy_weight, normalizer)


def decoupled_kd(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    target_weight: float = 1.0,
    diversity_weight: float = 1.0,
    direction: str = "forward",
    temperature: float = 1.0,
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the Decoupled KD loss of a batch, in nats, and its diagnostics.

    loss = mean over the counted tokens of target_weight * TKD + diversity_weight * DKD. No gate, and DKD is not damped
    by UNC.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      mask: bool `[...]`, True where a token counts.
      target_weight: alpha in the paper, not negative; may be a traced scalar.
      diversity_weight: beta in the paper, not negative; may be a traced scalar.
      direction: "forward" for KLs from the teacher to the student, "reverse" for the other way.
      temperature: divides both models' logits; the loss is not scaled back by temperature^2.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.

    Returns:
      The loss, a scalar, and a dict of scalars: `counted_tokens`, `uncertainty_mean`, `target_kd_mean`,
      `diversity_kd_mean`. All are 0 where no token counts.

    Gradient:
      Per token that of `decoupled_divergence` with these weights divided by the number of counted tokens.

    Raises:
      TypeError: logits are not floating, targets not integer, or mask not boolean.
      ValueError: shapes do not fit, a number is out of range, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([[1.0, 0.0, 0.5]]), jnp.array([[2.0, 1.0, 0.0]])
      >>> targets, mask = jnp.array([0]), jnp.array([True])
      >>> loss, _ = losses.decoupled_kd(
      ...     student_logits=student, teacher_logits=teacher, targets=targets, mask=mask, diversity_weight=2.0
      ... )
      >>> print(f"{loss:.4f}")
      0.5663

    Reference:
      Zhao et al., Decoupled Knowledge Distillation, arXiv 2203.08679, equation 7.
    """
    name = decoupled_name("decoupled_kd", direction, divergence)
    target_weight = validation.weight("decoupled_kd", "target_weight", target_weight)
    diversity_weight = validation.weight("decoupled_kd", "diversity_weight", diversity_weight)
    student, teacher, targets, mask = _checked("decoupled_kd", student_logits, teacher_logits, targets, mask)
    terms = _counted_terms("decoupled_kd", name, student, teacher, targets, mask, temperature, beta, alpha)
    return weighted_mean(terms, mask, target_weight, diversity_weight)


def atkd_diagnostics(*, terms: DecoupledTerms, hard: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Returns what to watch while training with ATKD: the share of easy tokens, and the terms' mean in each group.

    Args:
      terms: as from `decoupled_terms`, of all tokens that were gated together.
      hard: bool `[...]`, as from `hard_token_mask`.
      mask: bool `[...]`, True where a token counts.

    Returns:
      A dict of scalars: `counted_tokens`, `easy_share`, `uncertainty_mean`, `target_kd_hard`, `target_kd_easy`,
      `diversity_kd_hard` and `diversity_kd_easy`. A mean over no token is 0.

    Gradient:
      Ordinary; objectives do not use it.

    Raises:
      TypeError: `hard` or `mask` is not boolean.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> logits, targets = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0])
      >>> terms = losses.decoupled_terms(student_logits=logits, teacher_logits=logits, targets=targets)
      >>> hard, mask = jnp.array([False, True]), jnp.array([True, True])
      >>> diagnostics = losses.atkd_diagnostics(terms=terms, hard=hard, mask=mask)
      >>> print(f"{diagnostics['easy_share']:.2f} {diagnostics['uncertainty_mean']:.4f}")
      0.50 0.4251
    """
    shape = terms.target_kd.shape
    mask = validation.boolean("atkd_diagnostics", "mask", mask, shape)
    hard = validation.boolean("atkd_diagnostics", "hard", hard, shape) & mask
    easy = mask & ~hard
    return {
        "counted_tokens": jnp.sum(mask).astype(jnp.float32),
        "easy_share": mean_of_group(easy.astype(jnp.float32), mask),
        "uncertainty_mean": mean_of_group(jnp.exp(terms.teacher_log_uncertainty), mask),
        "target_kd_hard": mean_of_group(terms.target_kd, hard),
        "target_kd_easy": mean_of_group(terms.target_kd, easy),
        "diversity_kd_hard": mean_of_group(terms.diversity_kd, hard),
        "diversity_kd_easy": mean_of_group(terms.diversity_kd, easy),
    }


def _checked(function, student_logits, teacher_logits, targets, mask):
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    targets = validation.integers(function, "targets", targets, student.shape[:-1])
    mask = validation.boolean(function, "mask", mask, student.shape[:-1])
    return student, teacher, jnp.where(mask, targets, 0), mask


def _counted_terms(function, divergence, student, teacher, targets, mask, temperature, beta, alpha) -> DecoupledTerms:
    """Returns `decoupled_divergence`, and harmless numbers where a token does not count."""
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    direction = pointwise.kl_direction(divergence, beta=beta, alpha=alpha)
    if direction is not None:
        student, teacher = validation.scaled(function, temperature, student, teacher)
        return counted_terms(student, teacher, targets, mask, direction)
    return decoupled_divergence(
        student_logits=_without_uncounted(student, mask),
        teacher_logits=_without_uncounted(teacher, mask),
        targets=targets,
        divergence=divergence,
        beta=beta,
        alpha=alpha,
        temperature=temperature,
    )


def _at_temperature_one(terms: DecoupledTerms, teacher_logits, targets, mask, temperature) -> DecoupledTerms:
    """Returns the terms with the teacher's probability of the target as it is without a temperature."""
    if isinstance(temperature, Real) and temperature == 1:
        return terms
    margin = target_margin(*validation.scaled("atkd", 1, _without_uncounted(teacher_logits, mask)), targets)
    return terms._replace(
        teacher_target_log_prob=jax.nn.log_sigmoid(margin), teacher_log_uncertainty=jax.nn.log_sigmoid(-margin)
    )


def _without_uncounted(logits: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], logits, 0)


def gated(
    terms: DecoupledTerms, mask: jax.Array, hard_fraction: float, easy_weight, normalizer: str
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns ATKD and its diagnostics, given every token's terms; the arguments are checked."""
    log_probs = terms.teacher_target_log_prob
    hard = hard_token_mask(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    threshold = hard_token_threshold(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    weights = atkd_token_weights(hard=hard, mask=mask, easy_weight=easy_weight, normalizer=normalizer)
    diagnostics = atkd_diagnostics(terms=terms, hard=hard, mask=mask)
    return jnp.sum(weighted_terms(terms, *weights)), diagnostics | {"uncertainty_threshold": threshold}


def weighted_mean(
    terms: DecoupledTerms, mask: jax.Array, target_weight, diversity_weight
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns Decoupled KD and its diagnostics, given every token's terms; the arguments are checked."""
    dtype = terms.target_kd.dtype
    share = mask.astype(dtype) / jnp.maximum(jnp.sum(mask), 1).astype(dtype)
    weights = (jnp.asarray(weight, dtype) * share for weight in (target_weight, diversity_weight))
    loss = jnp.sum(weighted_terms(terms, *weights))
    diagnostics = {
        "counted_tokens": jnp.sum(mask).astype(jnp.float32),
        "uncertainty_mean": mean_of_group(jnp.exp(terms.teacher_log_uncertainty), mask),
        "target_kd_mean": mean_of_group(terms.target_kd, mask),
        "diversity_kd_mean": mean_of_group(terms.diversity_kd, mask),
    }
    return loss, diagnostics


def weighted_terms(terms: DecoupledTerms, target_weight: jax.Array, diversity_weight: jax.Array) -> jax.Array:
    """Returns target_weight * TKD + diversity_weight * DKD of every token."""

    def products(weight, values):
        # A weight of 0 drops the term, also where the term is inf.
        return jnp.where(weight > 0, weight.astype(values.dtype) * values, 0)

    return products(target_weight, terms.target_kd) + products(diversity_weight, terms.diversity_kd)


def mean_of_group(values: jax.Array, group: jax.Array) -> jax.Array:
    """Returns the mean of the values where `group`, bool, is True, whatever the others are; 0 for an empty group."""
    count = jnp.maximum(jnp.sum(group), 1).astype(values.dtype)
    return jnp.sum(jnp.where(group, values, 0)) / count
