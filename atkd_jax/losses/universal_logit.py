"""The distance of two distributions whose words are not the same: between their sorted probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.log_space import normalized


def universal_logit(*, student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns the universal logit distance of every token, a sum of differences of probabilities.

    sum_i |p_(i) - q_(i)|, where p_(1) >= p_(2) >= ... are the teacher's probabilities in descending order, q_(i) the
    student's, and the shorter list goes on with zeros. It is the Wasserstein distance under a cost that is the same for
    any two words: which word has a probability plays no part, so that student and teacher may have different
    vocabularies. It does not pair positions: what stands at the same index is compared. It contains no cross-entropy,
    without which nothing would say which words are meant.

    Args:
      student_logits: `[..., student_vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: `[..., teacher_vocab]`; all axes but the last are the same.
      temperature: divides both models' logits.

    Returns:
      `[...]`, between 0 and 2.

    Gradient:
      q (s - sum_j q_j s_j) / temperature by the student's logits, where s_j = sign(q_(i) - p_(i)) at the place i of
      word j, and sign(0) = 0. Words of equal probability take their places in the order in which they stand.

    Raises:
      TypeError: logits are not of floating type.
      ValueError: the shapes differ before the last axis, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.25, 0.75])), jnp.log(jnp.array([0.7, 0.1, 0.2]))
      >>> print(f"{losses.universal_logit(student_logits=student, teacher_logits=teacher):.4f}")
      0.2000

    Reference:
      Boizard et al., Towards Cross-Tokenizer Distillation, arXiv 2402.12030, section 3.
    """
    function = "universal_logit"
    (student,), (teacher,) = (
        validation.floating(function, student_logits=student_logits),
        validation.floating(function, teacher_logits=teacher_logits),
    )
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"{function}: student_logits and teacher_logits must have the same positions, got {student.shape} and "
            f"{teacher.shape}; only the vocabulary may differ"
        )
    student, teacher = (
        _descending_probabilities(logits) for logits in validation.scaled(function, temperature, student, teacher)
    )
    missing = teacher.shape[-1] - student.shape[-1]
    return jnp.sum(jnp.abs(_longer(student, missing) - _longer(teacher, -missing)), axis=-1)


def _descending_probabilities(logits: jax.Array) -> jax.Array:
    shifted, log_sum, _ = normalized(jnp.sort(logits, axis=-1, descending=True))
    return jnp.exp(shifted - log_sum)


def _longer(probabilities: jax.Array, zeros: int) -> jax.Array:
    return jnp.pad(probabilities, [(0, 0)] * (probabilities.ndim - 1) + [(0, max(zeros, 0))])
