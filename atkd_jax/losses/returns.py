"""What a token of sampled text is worth: rewards, what comes after a token, and the batch's own scale.

MiniLLM takes sequence-level KL(student || teacher) for a reinforcement problem in which a token's reward is
log p - log q. Time is the last axis, and `mask` is True at the tokens that were generated, the first one and the
closing EOS among them. A row's counted tokens are neighbours; what stands before or behind them has no influence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.per_token import counted_numbers

FIRST_REWARDS = ("own", "next")
NORMALIZERS = ("none", "remaining")


def reverse_kl_rewards(
    *, student_log_probs: jax.Array, teacher_log_probs: jax.Array, mask: jax.Array, scale: float = 1.0, clip=None
) -> jax.Array:
    """Returns r = scale (log p(y) - log q(y)) of every token y that was written, in nats, cut to [-clip, clip].

    Summed over a text that the student wrote, its expectation is -KL(student || teacher) of whole texts.

    Args:
      student_log_probs: `[..., T]`, log q of the tokens that were written.
      teacher_log_probs: `[..., T]`, log p of them.
      mask: bool `[..., T]`, True where a token counts.
      scale: multiplies the reward before it is cut.
      clip: the largest size of a reward; None cuts nothing.

    Returns:
      `[..., T]`; 0 where a token does not count, inf where the student excludes a token that stands there after all.

    Gradient:
      scale by log p and -scale by log q, 0 where the reward was cut. Policy gradients stop it.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ, or scale or clip is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([-1.0, -3.0]), jnp.array([-2.0, -1.0])
      >>> losses.reverse_kl_rewards(
      ...     student_log_probs=student, teacher_log_probs=teacher, mask=jnp.array([True, True])
      ... ).tolist()
      [-1.0, 2.0]

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.2.
    """
    function = "reverse_kl_rewards"
    scale = validation.weight(function, "scale", scale)
    _, (student, teacher) = counted_numbers(
        function, mask, student_log_probs=student_log_probs, teacher_log_probs=teacher_log_probs
    )
    rewards = (teacher - student) * jnp.asarray(scale, student.dtype)
    if clip is None:
        return rewards
    largest = jnp.asarray(validation.weight(function, "clip", clip), rewards.dtype)
    return jnp.clip(rewards, -largest, largest)


def discounted_returns(
    *,
    rewards: jax.Array,
    mask: jax.Array,
    discount: float = 1.0,
    first_reward: str = "own",
    normalizer: str = "none",
) -> jax.Array:
    """Returns what every token brings from itself, or from the next one, to the end of its text.

    With `first_reward="own"`, R_t = sum_{i >= t} discount^(i - t) r_i; with "next" the sum begins at i = t + 1, at full
    weight, for gradients that have taken account of the token itself already. `normalizer="remaining"` divides by the
    number of the rewards in the sum, so that early tokens of long texts do not outweigh all others.

    MiniLLM as written has discount=1, first_reward="next"; as released, discount=0.95, first_reward="own"; both
    normalizer="remaining".

    Args:
      rewards: `[..., T]`.
      mask: bool `[..., T]`, True where a token counts.
      discount: a Python number in [0, 1].
      first_reward: "own" or "next".
      normalizer: "none" or "remaining".

    Returns:
      `[..., T]`; 0 where a token does not count, and for "next" at a text's last token.

    Gradient:
      discount^(i - t), over the same divisor, by r_i.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ, or an option is unknown or out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> rewards, mask = jnp.array([1.0, 0.5, 9.0]), jnp.array([True, True, False])
      >>> losses.discounted_returns(rewards=rewards, mask=mask, normalizer="remaining").tolist()
      [0.75, 0.5, 0.0]

    Reference:
      Gu et al., MiniLLM, arXiv 2306.08543, section 2.2.
    """
    function = "discounted_returns"
    discount = validation.fraction(function, "discount", discount)
    validation.choice(function, "first_reward", first_reward, FIRST_REWARDS)
    validation.choice(function, "normalizer", normalizer, NORMALIZERS)
    mask, (rewards,) = counted_numbers(function, mask, rewards=rewards)

    def from_here_on(numbers: jax.Array, factor: float) -> jax.Array:
        def add(later: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
            total = own + jnp.asarray(factor, own.dtype) * later
            return total, total

        _, totals = jax.lax.scan(add, jnp.zeros_like(numbers[..., 0]), jnp.moveaxis(numbers, -1, 0), reverse=True)
        return jnp.moveaxis(totals, 0, -1)

    returns, remaining = from_here_on(rewards, discount), from_here_on(mask.astype(rewards.dtype), 1.0)
    if first_reward == "next":
        returns, remaining = (_shifted(numbers) for numbers in (returns, remaining))
    if normalizer == "remaining":
        returns = returns / jnp.maximum(remaining, 1)
    return jnp.where(mask, returns, 0)


def whitened(*, values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the values less their mean, over their standard deviation, both over the counted tokens of the batch.

    The variance is that of the tokens themselves (divided by their number), with 1e-8 added before the root, so that
    equal values become 0.

    Args:
      values: `[..., T]`.
      mask: bool `[..., T]`, True where a token counts.

    Returns:
      `[..., T]`; 0 where a token does not count.

    Gradient:
      That of the formula; policy gradients stop it.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> values, mask = jnp.array([1.0, 3.0, 100.0]), jnp.array([True, True, False])
      >>> print(losses.whitened(values=values, mask=mask))
      [-1.  1.  0.]
    """
    mask, (values,) = counted_numbers("whitened", mask, values=values)
    tokens = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    centred = jnp.where(mask, values - jnp.sum(values) / tokens, 0)
    variance = jnp.sum(jnp.square(centred)) / tokens
    return centred * jax.lax.rsqrt(variance + jnp.asarray(1e-8, values.dtype))


def _shifted(numbers: jax.Array) -> jax.Array:
    """Returns each place's right neighbour, 0 at the end."""
    return jnp.concatenate([numbers[..., 1:], jnp.zeros_like(numbers[..., :1])], axis=-1)
