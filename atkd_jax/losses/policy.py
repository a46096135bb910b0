"""Learning from text that a model wrote: who wrote it, how much it weighs, and which way it pushes the student.

p is the teacher's distribution of the next token, q the student's, and p~ the one that a token was drawn from. Time is
the last axis of arrays per token, `[..., T]`; nothing here averages or stops a gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.divergences import reverse_kl
from atkd_jax.losses.per_token import counted_numbers, numbers_of_one_type


def mixed_log_probs(
    *, student_log_probs: jax.Array, teacher_log_probs: jax.Array, teacher_weight: float = 0.2
) -> jax.Array:
    """Returns log p~ with p~ = a p + (1 - a) q, where a = `teacher_weight`: a teacher that takes part in writing.

    It is taken of each element alone, so that whole distributions and the probabilities of single tokens go through
    alike. It does not normalise: logits have to go through `jax.nn.log_softmax` first.

    Args:
      student_log_probs: `[...]` or `[..., vocab]`, log q.
      teacher_log_probs: the same shape, log p.
      teacher_weight: a, a Python number in [0, 1].

    Returns:
      The same shape, at most 0; -inf only where both models exclude a token.

    Gradient:
      a p / p~ by log p and (1 - a) q / p~ by log q; 0 for a model that excludes the token.

    Raises:
      TypeError: an array is not of floating type, or the weight is no Python number.
      ValueError: the shapes differ, or the weight is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([0.2, 0.8])), jnp.log(jnp.array([0.4, 0.6]))
      >>> mixed = losses.mixed_log_probs(student_log_probs=student, teacher_log_probs=teacher, teacher_weight=0.2)
      >>> print(jnp.exp(mixed).round(4))
      [0.24 0.76]

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.2, teacher-mixed sampling.
    """
    function = "mixed_log_probs"
    weight = validation.fraction(function, "teacher_weight", teacher_weight)
    student, teacher = numbers_of_one_type(
        function, student_log_probs=student_log_probs, teacher_log_probs=teacher_log_probs
    )
    if weight in (0.0, 1.0):
        return teacher if weight else student
    from_teacher = teacher + jnp.log(jnp.asarray(weight, teacher.dtype))
    from_student = student + jnp.log1p(jnp.asarray(-weight, student.dtype))
    # Where both are -inf their difference is NaN; a row of two that are taken together never forms it.
    excluded = jnp.maximum(from_teacher, from_student) == -jnp.inf
    pair = [jnp.where(excluded, 0, part) for part in (from_teacher, from_student)]
    return jnp.where(excluded, -jnp.inf, jax.nn.logsumexp(jnp.stack(pair), axis=0))


def importance_weights(
    *, student_log_probs: jax.Array, sampled_log_probs: jax.Array, mask: jax.Array, cumulative: bool = False
) -> jax.Array:
    """Returns q / p~ of every token that was written: what makes averages under p~ ones under the student.

    MiniLLM takes a token's own quotient for its weight. `cumulative=True` gives the product of the quotients from the
    first counted token to this one: the exact weight of whatever this token ends. What reaches to a text's end, such as
    a return, has its last token's weight, which varies wildly in long texts. All of them average to 1 under p~.

    Args:
      student_log_probs: `[..., T]`, log q of the tokens that were written.
      sampled_log_probs: `[..., T]`, log p~ of them, as `mixed_log_probs` gives it.
      mask: bool `[..., T]`, True where a token counts.
      cumulative: whether the tokens before count too.

    Returns:
      `[..., T]`, never negative, at most 1 / (1 - a) for a mixture with weight a if not cumulative; 0 where a token
      does not count.

    Gradient:
      The weight itself by log q and its negative by log p~, for cumulative ones by those of the tokens before too.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> weights = losses.importance_weights(
      ...     student_log_probs=jnp.log(jnp.array([0.2, 0.5, 0.05])),
      ...     sampled_log_probs=jnp.log(jnp.array([0.24, 0.42, 0.16])),
      ...     mask=jnp.array([True, True, True]),
      ... )
      >>> print(weights.round(4))
      [0.8333 1.1905 0.3125]

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.2.
    """
    mask, (student, sampled) = counted_numbers(
        "importance_weights", mask, student_log_probs=student_log_probs, sampled_log_probs=sampled_log_probs
    )
    log_weights = student - sampled
    if cumulative:
        log_weights = jnp.cumsum(log_weights, axis=-1)
    return jnp.where(mask, jnp.exp(jnp.where(mask, log_weights, 0)), 0)


def clipped_surrogate(
    *,
    student_log_probs: jax.Array,
    sampled_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip: float | None = 0.2,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Returns -min(ratio A, clip(ratio, 1 - c, 1 + c) A) of every token: PPO's loss, to be made small.

    The ratio is w q / p~: of the student as it is to whatever wrote the token, times an importance weight w where
    `sampled_log_probs` is the student as it was and p~ was another. Once the ratio has left the interval in the
    direction in which the advantage A pushes, the token pushes no more.

    Args:
      student_log_probs: `[..., T]`, log q of the tokens that were written, with a gradient.
      sampled_log_probs: `[..., T]`, log-probabilities of them under what wrote them.
      advantages: `[..., T]`, A.
      mask: bool `[..., T]`, True where a token counts.
      clip: c, at least 0; None clips nothing, which is the plain policy gradient with its ratio.
      weights: `[..., T]`, w; 1 if not given.

    Returns:
      `[..., T]`; 0 where a token does not count. It is no divergence and may be negative.

    Gradient:
      -ratio A by log q, 0 where the clipped branch is the smaller one. By all other arrays too, which callers stop.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ, or clip is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> surrogate = losses.clipped_surrogate(
      ...     student_log_probs=jnp.log(jnp.array([0.5, 0.5])),
      ...     sampled_log_probs=jnp.log(jnp.array([0.25, 0.5])),
      ...     advantages=jnp.array([1.0, 1.0]),
      ...     mask=jnp.array([True, True]),
      ... )
      >>> print(surrogate)
      [-1.2 -1. ]

    Reference:
      Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347, section 3.
    """
    function = "clipped_surrogate"
    arrays = {"student_log_probs": student_log_probs, "sampled_log_probs": sampled_log_probs, "advantages": advantages}
    if weights is not None:
        arrays["weights"] = weights
    mask, (student, sampled, gain, *weight) = counted_numbers(function, mask, **arrays)
    ratio = jnp.exp(student - sampled)
    if weight:
        ratio = ratio * weight[0]
    surrogate = ratio * gain
    if clip is not None:
        width = jnp.asarray(validation.weight(function, "clip", clip), ratio.dtype)
        surrogate = jnp.minimum(surrogate, jnp.clip(ratio, 1 - width, 1 + width) * gain)
    return jnp.where(mask, -surrogate, 0)


def single_step_reverse_kl(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    mask: jax.Array,
    weights: jax.Array | None = None,
    temperature: float = 1.0,
) -> jax.Array:
    """Returns w KL(student || teacher) of every counted token: the part of the policy gradient that needs no sample.

    The expected reward of the next token alone is -KL of its distributions, whose gradient is known exactly. Together
    with `clipped_surrogate` on the returns that begin at the next token, its expectation is the gradient of KL of whole
    texts.

    Args:
      student_logits: `[..., T, vocab]`. A logit of -inf is a token that cannot occur.
      teacher_logits: the same shape.
      mask: bool `[..., T]`, True where a token counts.
      weights: `[..., T]`, w, as from `importance_weights`; 1 if not given.
      temperature: divides both models' logits.

    Returns:
      `[..., T]`; 0 where a token does not count.

    Gradient:
      That of `reverse_kl`, times w; 0, also of NaN, where a token does not count.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ, or the temperature is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
      >>> (value,) = losses.single_step_reverse_kl(
      ...     student_logits=student, teacher_logits=teacher, mask=jnp.array([True])
      ... )
      >>> print(f"{value:.4f}")
      0.1438

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.2.
    """
    function = "single_step_reverse_kl"
    student, teacher = validation.floating(function, student_logits=student_logits, teacher_logits=teacher_logits)
    mask = validation.boolean(function, "mask", mask, student.shape[:-1])
    student, teacher = (jnp.where(mask[..., None], logits, 0) for logits in (student, teacher))
    divergence = reverse_kl(student_logits=student, teacher_logits=teacher, temperature=temperature)
    if weights is not None:
        _, (divergence, weight) = counted_numbers(function, mask, divergence=divergence, weights=weights)
        divergence = divergence * weight
    return jnp.where(mask, divergence, 0)
