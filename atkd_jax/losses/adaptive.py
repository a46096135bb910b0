"""Divergences whose make-up depends on the token, one value per token."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.decoupling import DecoupledTerms, damped, decoupled_terms
from atkd_jax.losses.log_space import log_probabilities, relative_entropy, target_margin, without_target
from atkd_jax.losses.token_terms import decoupled_of


def uncertainty_weighted_kl(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> jax.Array:
    """Returns TKD + UNC^gamma * DKD of every token, in nats: from plain KL (gamma 1) to undamped diversity (gamma 0).

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      gamma: how much of KL's damping is kept, not negative; may be a traced scalar.
      temperature: divides both models' logits.

    Returns:
      `[...]`, never negative.

    Gradient:
      That of `decoupled_terms` with weights 1 and UNC^gamma; by the teacher's logits also through UNC.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, gamma is negative, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> logits = {"student_logits": jnp.array([1.0, 0.0, 0.5]), "teacher_logits": jnp.array([2.0, 1.0, 0.0])}
      >>> for gamma in (0.0, 1.0):
      ...     print(f"{losses.uncertainty_weighted_kl(**logits, targets=jnp.array(0), gamma=gamma):.4f}")
      0.3089
      0.1376

    Reference:
      Between KL and the DKD of Zhong et al., arXiv 2402.11890, section 3.
    """
    gamma = validation.weight("uncertainty_weighted_kl", "gamma", gamma)
    terms = decoupled_terms(
        student_logits=student_logits, teacher_logits=teacher_logits, targets=targets, temperature=temperature
    )
    return weighted_by_uncertainty(terms, gamma)


def weighted_by_uncertainty(terms: DecoupledTerms, gamma) -> jax.Array:
    """Returns TKD + UNC^gamma * DKD, given the terms; gamma is checked."""
    log_uncertainty = terms.teacher_log_uncertainty
    # 0 * -inf is no number; where UNC is 0 there is no diversity to weigh.
    certain = log_uncertainty == -jnp.inf
    damping = jnp.exp(jnp.asarray(gamma, log_uncertainty.dtype) * jnp.where(certain, 0, log_uncertainty))
    return terms.target_kd + damped(jnp.where(certain, 0, damping), terms.diversity_kd)


def adaptive_kl(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    head_mass: float = 0.5,
    temperature: float = 1.0,
) -> jax.Array:
    """Returns the adaptive KL of every token, in nats: forward KL where the head is off, reverse KL where the tail is.

    AKL = g_head / (g_head + g_tail) KL(p || q) + g_tail / (g_head + g_tail) KL(q || p), with g the sum of |p_j - q_j|
    over the head or the tail. The head is the teacher's most probable word, and the next ones as long as together they
    have no more than `head_mass`; the tail is the rest. It sorts the vocabulary, which the other divergences need not.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      head_mass: mu in the paper, a Python number in [0, 1].
      temperature: divides both models' logits.

    Returns:
      `[...]`, never negative; 0 where both models agree.

    Gradient:
      That of the two KLs. The weights are constants by definition, as in the paper's own program.

    Raises:
      TypeError: logits are not of floating type, or head_mass is not a Python number.
      ValueError: the shapes differ, head_mass is out of range, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> print(f"{losses.adaptive_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.0886

    Reference:
      Wu et al., Rethinking Kullback-Leibler Divergence in Knowledge Distillation for LLMs, arXiv 2404.02657, section 4.
    """
    function = "adaptive_kl"
    head_mass = validation.fraction(function, "head_mass", head_mass)
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    student, teacher = validation.scaled(function, temperature, student, teacher)
    p, q = (jax.lax.stop_gradient(jnp.exp(log_probabilities(logits))) for logits in (teacher, student))
    negative_p, errors = jax.lax.sort((-p, jnp.abs(p - q)), dimension=-1, num_keys=1)
    rank = jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
    # The whole sums to 1 but for rounding, which must not decide who is in the head.
    in_head = (jnp.cumsum(-negative_p, axis=-1) <= head_mass) | (rank == 0) | (head_mass == 1)
    head = jnp.sum(jnp.where(in_head, errors, 0), axis=-1)
    both = jnp.sum(errors, axis=-1)
    share = jnp.where(both == 0, 0.5, head / jnp.where(both == 0, 1, both))
    forward, reverse = relative_entropy(teacher, student), relative_entropy(student, teacher)
    # A weight of 0 drops its KL, also where that is inf.
    return jnp.where(share == 0, 0, share * forward) + jnp.where(share == 1, 0, (1 - share) * reverse)


def decoupled_divergence(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: float = 1.0,
) -> DecoupledTerms:
    """Returns any divergence taken apart as KL is: of the target against the rest, and within the renormalised rest.

    `target_kd` is the divergence between the two coins, the target's probability in teacher and student; `diversity_kd`
    is the divergence between the distributions without the target, each renormalised to 1. For the KLs they are those
    of `decoupled_terms` and make up the whole; the other divergences have no such sum, and ATKD does not need it. With
    `hard_token_mask` and `atkd_token_weights`, ATKD's gate sits on every one of them.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      divergence: the name of the per-token function: "forward_kl", "reverse_kl", "generalized_jsd", "total_variation",
        "skewed_forward_kl" or "skewed_reverse_kl".
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      temperature: divides both models' logits.

    Returns:
      DecoupledTerms; its log probabilities do not depend on the divergence.

    Gradient:
      Ordinary, by both models' logits.

    Raises:
      TypeError: an array has a wrong type, or a share is not a Python number.
      ValueError: the shapes do not fit, a number is out of range, or the divergence is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> logits = {"student_logits": jnp.array([1.0, 0.0, 0.5]), "teacher_logits": jnp.array([2.0, 1.0, 0.0])}
      >>> terms = losses.decoupled_divergence(**logits, targets=jnp.array(0), divergence="total_variation")
      >>> print(f"{terms.target_kd:.4f} {terms.diversity_kd:.4f}")
      0.1588 0.3535

    Reference:
      The decoupling is that of Zhong et al., arXiv 2402.11890, section 3.
    """
    function = "decoupled_divergence"
    validation.choice(function, "divergence", divergence, pointwise.DIVERGENCES)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    targets = validation.integers(function, "targets", targets, student.shape[:-1])
    student, teacher = validation.scaled(function, temperature, student, teacher)
    direction = pointwise.kl_direction(divergence, beta=beta, alpha=alpha)
    if direction is not None:
        return decoupled_terms(student_logits=student, teacher_logits=teacher, targets=targets, direction=direction)
    terms = pointwise.terms_of(divergence, beta=beta, alpha=alpha)
    student_margin, teacher_margin = target_margin(student, targets), target_margin(teacher, targets)
    # Without a rest in one of the models there is no diversity to compare.
    comparable = (student_margin != jnp.inf) & (teacher_margin != jnp.inf)
    rests = (log_probabilities(without_target(logits, targets)) for logits in (teacher, student))
    diversity = jnp.where(comparable, pointwise.summed(terms(*rests)), 0)
    return decoupled_of(divergence, student_margin, teacher_margin, diversity, beta=beta, alpha=alpha)
