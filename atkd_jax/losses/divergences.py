"""Divergences between the teacher's and the student's distribution of the next token, one value per token.

p is the teacher's distribution and q the student's, both softmax(logits / temperature). Every function maps `[...,
vocab]` to `[...]`, in nats and in float32 (float64 where an input has it), and neither shifts, masks, averages, scales
by temperature^2 nor stops a gradient. Gradients flow to both models' logits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.log_space import log_probabilities, relative_entropy


def forward_kl(*, student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns KL(teacher || student) of every token, in nats.

    KL(p || q) = sum_j p_j (log p_j - log q_j): large where the student misses what the teacher would say. It does not
    include temperature^2, by which some recipes multiply to keep the size of the gradient.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      temperature: divides both models' logits.

    Returns:
      `[...]`, never negative; inf where the student excludes a token that the teacher may say.

    Gradient:
      (q - p) / temperature by the student's logits, also where the value is inf.

    Raises:
      TypeError: logits are not of floating type.
      ValueError: the shapes differ, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.forward_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1308

    Reference:
      Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.
    """
    student, teacher = _logits("forward_kl", student_logits, teacher_logits, temperature)
    return relative_entropy(teacher, student)


def reverse_kl(*, student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns KL(student || teacher) of every token, in nats.

    KL(q || p) = sum_j q_j (log q_j - log p_j): large where the student says what the teacher would not.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      temperature: divides both models' logits.

    Returns:
      `[...]`, never negative; inf where the teacher excludes a token that the student may say.

    Gradient:
      q (log q - log p - KL) / temperature by the student's logits; 0 by definition where the value is inf.

    Raises:
      TypeError: logits are not of floating type.
      ValueError: the shapes differ, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.reverse_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1438

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.
    """
    student, teacher = _logits("reverse_kl", student_logits, teacher_logits, temperature)
    return relative_entropy(student, teacher)


def generalized_jsd(
    *, student_logits: jax.Array, teacher_logits: jax.Array, beta: float = 0.5, temperature: float = 1.0
) -> jax.Array:
    """Returns the generalised Jensen-Shannon divergence of every token, in nats.

    JSD = beta KL(p || m) + (1 - beta) KL(q || m) with the mixture m = beta p + (1 - beta) q. It vanishes as beta goes
    to either end, so that beta = 0 and beta = 1 themselves are free: as in GKD they mean forward and reverse KL.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      beta: the teacher's share of the mixture, a Python number in [0, 1].
      temperature: divides both models' logits.

    Returns:
      `[...]`, between 0 and the entropy of (beta, 1 - beta), which is log 2 at 0.5; at the ends, see the KLs.

    Gradient:
      (1 - beta) q (log q - log m - KL(q || m)) / temperature by the student's logits.

    Raises:
      TypeError: logits are not of floating type, or beta is not a Python number.
      ValueError: the shapes differ, beta is out of range, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.generalized_jsd(student_logits=student, teacher_logits=teacher):.4f}")
      0.0338

    Reference:
      Agarwal et al., On-Policy Distillation of Language Models (GKD), arXiv 2306.13649, section 2.
    """
    beta = validation.fraction("generalized_jsd", "beta", beta)
    student, teacher = _logits("generalized_jsd", student_logits, teacher_logits, temperature)
    if beta == 0:
        return relative_entropy(teacher, student)
    if beta == 1:
        return relative_entropy(student, teacher)
    terms = pointwise.jensen_shannon(log_probabilities(teacher), log_probabilities(student), beta=beta)
    return pointwise.summed(terms)


def total_variation(*, student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns the total variation distance of every token, a probability.

    TV = 1/2 sum_j |p_j - q_j|: the largest difference between the two models' probabilities of any one event.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      temperature: divides both models' logits.

    Returns:
      `[...]`, between 0 and 1.

    Gradient:
      q (s - sum_j q_j s_j) / (2 temperature) by the student's logits, with s = sign(q - p) and sign(0) = 0.

    Raises:
      TypeError: logits are not of floating type.
      ValueError: the shapes differ, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.total_variation(student_logits=student, teacher_logits=teacher):.4f}")
      0.2500

    Reference:
      Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation, arXiv 2307.15190, section 3.
    """
    student, teacher = _logits("total_variation", student_logits, teacher_logits, temperature)
    return pointwise.summed(pointwise.variation(log_probabilities(teacher), log_probabilities(student)))


def skewed_forward_kl(
    *, student_logits: jax.Array, teacher_logits: jax.Array, alpha: float = 0.1, temperature: float = 1.0
) -> jax.Array:
    """Returns KL(teacher || alpha teacher + (1 - alpha) student) of every token, in nats.

    Mixing a share of the teacher into the second place bounds the value and the gradient where the student is near 0.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      alpha: the teacher's share of the mixture, a Python number in [0, 1]; 0 is forward KL.
      temperature: divides both models' logits.

    Returns:
      `[...]`, between 0 and -log(alpha).

    Gradient:
      q (sum_j q_j r_j - r) / temperature by the student's logits, with r = (1 - alpha) p / m and m the mixture.

    Raises:
      TypeError: logits are not of floating type, or alpha is not a Python number.
      ValueError: the shapes differ, alpha is out of range, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.skewed_forward_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1070

    Reference:
      Ko et al., DistiLLM, arXiv 2402.03898, section 3.1.
    """
    alpha = validation.fraction("skewed_forward_kl", "alpha", alpha)
    student, teacher = _logits("skewed_forward_kl", student_logits, teacher_logits, temperature)
    return _skewed(teacher, student, alpha)


def skewed_reverse_kl(
    *, student_logits: jax.Array, teacher_logits: jax.Array, alpha: float = 0.1, temperature: float = 1.0
) -> jax.Array:
    """Returns KL(student || alpha student + (1 - alpha) teacher) of every token, in nats.

    Mixing a share of the student into the second place bounds the value and the gradient where the teacher is near 0.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      alpha: the student's share of the mixture, a Python number in [0, 1]; 0 is reverse KL.
      temperature: divides both models' logits.

    Returns:
      `[...]`, between 0 and -log(alpha).

    Gradient:
      q (g - sum_j q_j g_j) / temperature by the student's logits, with g = log(q / m) - alpha q / m and m the mixture.

    Raises:
      TypeError: logits are not of floating type, or alpha is not a Python number.
      ValueError: the shapes differ, alpha is out of range, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{losses.skewed_reverse_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1131

    Reference:
      Ko et al., DistiLLM, arXiv 2402.03898, section 3.1.
    """
    alpha = validation.fraction("skewed_reverse_kl", "alpha", alpha)
    student, teacher = _logits("skewed_reverse_kl", student_logits, teacher_logits, temperature)
    return _skewed(student, teacher, alpha)


def _skewed(first: jax.Array, second: jax.Array, first_share: float) -> jax.Array:
    if first_share == 0:
        return relative_entropy(first, second)
    if first_share == 1:
        return jnp.zeros(first.shape[:-1], first.dtype)
    terms = pointwise.to_mixture(log_probabilities(first), log_probabilities(second), q_weight=1 - first_share)
    return pointwise.summed(terms)


def _logits(function: str, student_logits, teacher_logits, temperature) -> list[jax.Array]:
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    return validation.scaled(function, temperature, student, teacher)
