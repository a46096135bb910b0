"""KL taken apart: how sure to be of the target (TKD), and how the rest shares what is left (DKD), per token.

With p the teacher's distribution, q the student's, y the target and UNC = 1 - p_y:

    KL(p || q) = TKD + UNC * DKD
    TKD = p_y log(p_y / q_y) + (1 - p_y) log((1 - p_y) / (1 - q_y))
    DKD = sum_{j != y} p^_j log(p^_j / q^_j),   p^_j = p_j / (1 - p_y),   q^_j = q_j / (1 - q_y)

In KL, DKD is damped by UNC: where the teacher is sure of the target, the student hears next to nothing of the rest.
ATKD and Decoupled KD weigh the two parts otherwise. `decoupled_terms` is the one place where they are defined.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.log_space import binary_relative_entropy
from atkd_jax.losses.rest_divergence import rest_terms

DIRECTIONS = ("forward", "reverse")


class DecoupledTerms(NamedTuple):
    """What every objective of this family is made of; each `[...]`, in nats.

    Attributes:
      target_kd: TKD, the binary KL of the target against the rest.
      diversity_kd: DKD, the KL of the renormalised rest, not damped by UNC.
      teacher_target_log_prob: log p_y, by which tokens are ranked.
      teacher_log_uncertainty: log UNC = log(1 - p_y).
      student_target_log_prob: log q_y, the negative of cross-entropy.
    """

    target_kd: jax.Array
    diversity_kd: jax.Array
    teacher_target_log_prob: jax.Array
    teacher_log_uncertainty: jax.Array
    student_target_log_prob: jax.Array


def decoupled_terms(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
    direction: str = "forward",
) -> DecoupledTerms:
    """Returns TKD, DKD and both models' log probability of the target, for every token, from one pass.

    Forward, KL(teacher || student) = TKD + UNC * DKD. `direction="reverse"` swaps the roles inside TKD and DKD, so that
    KL(student || teacher) = TKD + (1 - q_y) * DKD; the fields that bear a model's name are that model's in both.

    Args:
      student_logits: `[..., vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      temperature: divides both models' logits.
      direction: "forward" or "reverse".

    Returns:
      DecoupledTerms. DKD is 0 where the first of the two distributions, the teacher's forward, has all its mass on the
      target. A target that is no id of the vocabulary gives NaN.

    Gradient:
      With weights w_T, w_D on TKD and DKD, forward, by the student's logits at temperature 1:
      w_T (q_y - p_y) for the target, and -w_T (q_y - p_y) q^_j + w_D (q^_j - p^_j) for every other token.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, the temperature is not positive, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([1.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.0])
      >>> terms = losses.decoupled_terms(student_logits=student, teacher_logits=teacher, targets=jnp.array(0))
      >>> kl = terms.target_kd + jnp.exp(terms.teacher_log_uncertainty) * terms.diversity_kd
      >>> print(f"{kl:.4f} {losses.forward_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1376 0.1376

    Reference:
      Zhao et al., Decoupled Knowledge Distillation, arXiv 2203.08679, section 3; Zhong et al., arXiv 2402.11890,
      section 3.
    """
    return _terms("decoupled_terms", student_logits, teacher_logits, targets, temperature, direction)


def target_kd(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
    direction: str = "forward",
) -> jax.Array:
    """Returns TKD of every token, in nats: the KL of two coins, the target's probability in teacher and student.

    TKD = p_y log(p_y / q_y) + (1 - p_y) log((1 - p_y) / (1 - q_y)).

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      temperature: divides both models' logits.
      direction: "forward" as above, or "reverse" with p and q swapped.

    Returns:
      `[...]`, never negative; NaN where the target is no id of the vocabulary.

    Gradient:
      Forward, by the student's logits at temperature 1: q_y - p_y for the target, -(q_y - p_y) q^_j for the others.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, the temperature is not positive, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([1.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.0])
      >>> print(f"{losses.target_kd(student_logits=student, teacher_logits=teacher, targets=jnp.array(0)):.4f}")
      0.0514

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    return _terms("target_kd", student_logits, teacher_logits, targets, temperature, direction).target_kd


def diversity_kd(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
    direction: str = "forward",
) -> jax.Array:
    """Returns DKD of every token, in nats: the KL over all tokens but the target, each side renormalised to 1.

    DKD = sum_{j != y} p^_j log(p^_j / q^_j). It is not multiplied by UNC.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      temperature: divides both models' logits.
      direction: "forward" as above, or "reverse" with p and q swapped.

    Returns:
      `[...]`, never negative; 0 for a vocabulary of one or two tokens, where the rest leaves no choice.

    Gradient:
      Forward, by the student's logits at temperature 1: 0 for the target, q^_j - p^_j for the others.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, the temperature is not positive, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([1.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.0])
      >>> print(f"{losses.diversity_kd(student_logits=student, teacher_logits=teacher, targets=jnp.array(0)):.4f}")
      0.2574

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    return _terms("diversity_kd", student_logits, teacher_logits, targets, temperature, direction).diversity_kd


def _terms(function: str, student_logits, teacher_logits, targets, temperature, direction) -> DecoupledTerms:
    validation.choice(function, "direction", direction, DIRECTIONS)
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    targets = validation.integers(function, "targets", targets, student.shape[:-1])
    student, teacher = validation.scaled(function, temperature, student, teacher)
    return counted_terms(student, teacher, targets, None, direction)


def counted_terms(
    student_logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array, mask: jax.Array | None, direction: str
) -> DecoupledTerms:
    """Returns `decoupled_terms` of arguments that are checked, and harmless ones where a token does not count."""
    if direction == "reverse":
        diversity_kd, student_margin, teacher_margin = rest_terms(student_logits, teacher_logits, targets, mask)
    else:
        diversity_kd, teacher_margin, student_margin = rest_terms(teacher_logits, student_logits, targets, mask)
    return terms_of_margins(student_margin, teacher_margin, diversity_kd, direction)


def terms_of_margins(
    student_margin: jax.Array, teacher_margin: jax.Array, diversity_kd: jax.Array, direction: str
) -> DecoupledTerms:
    """Returns the terms, given both models' `log_space.target_margin` and DKD."""
    margins = (student_margin, teacher_margin) if direction == "reverse" else (teacher_margin, student_margin)
    return DecoupledTerms(
        target_kd=binary_relative_entropy(*margins),
        diversity_kd=diversity_kd,
        teacher_target_log_prob=jax.nn.log_sigmoid(teacher_margin),
        teacher_log_uncertainty=jax.nn.log_sigmoid(-teacher_margin),
        student_target_log_prob=jax.nn.log_sigmoid(student_margin),
    )


def decoupled_name(function: str, direction: str, divergence: str | None) -> str:
    """Returns the name of the divergence that is taken apart: the KL of a direction, or another one.

    Raises:
      ValueError: either is unknown, or both are chosen.
    """
    validation.choice(function, "direction", direction, DIRECTIONS)
    if divergence is None:
        return f"{direction}_kl"
    if direction != DIRECTIONS[0]:
        raise ValueError(
            f"{function}: direction chooses a KL and divergence another one, got {direction!r} and {divergence!r}; "
            "pass only one of them"
        )
    return validation.choice(function, "divergence", divergence, pointwise.DIVERGENCES)


def damped(damping: jax.Array, diversity_kd: jax.Array) -> jax.Array:
    """Returns damping * DKD, 0 where the damping is 0; where DKD is inf it has no derivative by the damping."""
    infinite = jnp.isinf(diversity_kd)
    product = damping * jnp.where(infinite, 0, diversity_kd)
    return jnp.where(damping == 0, 0, jnp.where(infinite, jax.lax.stop_gradient(damping) * diversity_kd, product))
