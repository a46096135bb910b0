"""What one model's distribution says of the target, the token that the data has next; one value per token."""

from __future__ import annotations

import jax

from atkd_jax.losses import validation
from atkd_jax.losses.log_space import target_margin


def target_log_prob(*, logits: jax.Array, targets: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns log p(target) of every token, in nats.

    log p_y = -log(1 + exp(-margin)), with the margin z_y - log sum_{j != y} exp z_j. Written so, it keeps its digits
    where p_y is 1 to machine precision, which is what lets tokens be ranked by it. It does not shift: the target of
    position t stands at the same index as its logits.

    Args:
      logits: `[..., vocab]`, of the teacher or of the student.
      targets: `[...]` of integers, token ids.
      temperature: divides the logits.

    Returns:
      `[...]`, at most 0; -inf where the target's logit is -inf, NaN where the target is no id of the vocabulary.

    Gradient:
      (onehot(y) - p) / temperature by the logits.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> print(f"{losses.target_log_prob(logits=jnp.array([40.0, 0.0]), targets=jnp.array(0)):.3e}")
      -4.248e-18
    """
    return jax.nn.log_sigmoid(_margin("target_log_prob", "logits", logits, targets, temperature))


def teacher_uncertainty(*, teacher_logits: jax.Array, targets: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns UNC = 1 - p(target) of every token, a probability: how unsure the teacher is of the data's token.

    It is computed as sigmoid(-margin) and not as a difference from 1, so that small values keep their digits. Near 1 no
    float32 can: rank tokens by `target_log_prob` instead.

    Args:
      teacher_logits: `[..., vocab]`.
      targets: `[...]` of integers, token ids.
      temperature: divides the logits.

    Returns:
      `[...]`, between 0 and 1; NaN where the target is no id of the vocabulary.

    Gradient:
      p_y (p - onehot(y)) / temperature by the teacher's logits.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> teacher = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> print(f"{losses.teacher_uncertainty(teacher_logits=teacher, targets=jnp.array(0)):.4f}")
      0.3000

    Reference:
      Zhong et al., Revisiting Knowledge Distillation for Autoregressive Language Models, arXiv 2402.11890, section 3.
    """
    return jax.nn.sigmoid(-_margin("teacher_uncertainty", "teacher_logits", teacher_logits, targets, temperature))


def cross_entropy(*, student_logits: jax.Array, targets: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns -log q(target) of every token, in nats: the loss of ordinary language modelling, without a teacher.

    Args:
      student_logits: `[..., vocab]`.
      targets: `[...]` of integers, token ids.
      temperature: divides the logits.

    Returns:
      `[...]`, never negative; inf where the target's logit is -inf, NaN where the target is no id of the vocabulary.

    Gradient:
      (q - onehot(y)) / temperature by the student's logits, also where the value is inf.

    Raises:
      TypeError: logits are not of floating type, or targets not of integer type.
      ValueError: the shapes do not fit, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = jnp.log(jnp.array([0.5, 0.25, 0.25]))
      >>> print(f"{losses.cross_entropy(student_logits=student, targets=jnp.array(1)):.4f}")
      1.3863
    """
    return -jax.nn.log_sigmoid(_margin("cross_entropy", "student_logits", student_logits, targets, temperature))


def _margin(function: str, name: str, logits, targets, temperature) -> jax.Array:
    (logits,) = validation.floating(function, **{name: logits})
    targets = validation.integers(function, "targets", targets, logits.shape[:-1])
    (logits,) = validation.scaled(function, temperature, logits)
    return target_margin(logits, targets)
