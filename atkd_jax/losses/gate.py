"""Which tokens ATKD takes for hard, and what weight each token's TKD and DKD get; over a whole batch.

The gate needs no more than the teacher's log p(target) of every counted token. A trainer that works through its batch
in micro-batches gates first, over all of them, and then adds up `sum(target_weight * TKD + diversity_weight * DKD)`
micro-batch by micro-batch: the sum is the loss of the whole batch, whatever the split.
"""

from __future__ import annotations

from array import array
from math import floor

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation

NORMALIZERS = ("group_mean", "total_tokens")


def hard_token_mask(
    *,
    uncertainty: jax.Array | None = None,
    target_log_probs: jax.Array | None = None,
    mask: jax.Array,
    hard_fraction: float = 0.5,
) -> jax.Array:
    """Returns which tokens are hard: those that count and of which the teacher is least sure.

    The counted tokens are sorted by UNC, ascending; the threshold is number floor((n - 1) (1 - hard_fraction)) of the n
    of them, counted from 0, and a token is hard unless it lies strictly below it. Ties are hard, so that the share of
    hard tokens is at least `hard_fraction`; at 0.5 the threshold is the lower median. Other counted tokens are easy.

    Pass either UNC or, better, log p(target): near 1 a float32 UNC saturates and invents ties. All arrays of the batch
    belong together: under jit, arrays sharded over devices are ranked over all devices.

    Args:
      uncertainty: `[...]`, UNC, as from `teacher_uncertainty`.
      target_log_probs: `[...]`, the teacher's log p(target), as from `target_log_prob`, in place of `uncertainty`.
      mask: bool `[...]`, True where a token counts. Values at other places, NaN too, have no influence.
      hard_fraction: a Python number in [0, 1].

    Returns:
      bool `[...]`, False where a token does not count.

    Gradient:
      None: the result is boolean.

    Raises:
      TypeError: not exactly one of the two measures is given, or an array has a wrong type.
      ValueError: the shapes differ, or hard_fraction is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> log_probs, mask = jnp.log(jnp.array([0.9, 0.2, 0.6, 0.5])), jnp.array([True, True, True, False])
      >>> losses.hard_token_mask(target_log_probs=log_probs, mask=mask).tolist()
      [False, True, True, False]

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    surprise, mask, hard_fraction, _ = _ranking("hard_token_mask", uncertainty, target_log_probs, mask, hard_fraction)
    return mask & ~(surprise < _threshold(surprise, mask, hard_fraction))


def hard_token_threshold(
    *,
    uncertainty: jax.Array | None = None,
    target_log_probs: jax.Array | None = None,
    mask: jax.Array,
    hard_fraction: float = 0.5,
) -> jax.Array:
    """Returns the UNC at which tokens begin to be hard, a probability: the gate as one number to watch.

    Args:
      uncertainty: `[...]`, UNC, as from `teacher_uncertainty`.
      target_log_probs: `[...]`, the teacher's log p(target), in place of `uncertainty`.
      mask: bool `[...]`, True where a token counts.
      hard_fraction: a Python number in [0, 1].

    Returns:
      A scalar; 0 where no token counts.

    Gradient:
      That of the one token which is the threshold; objectives do not use it.

    Raises:
      TypeError: not exactly one of the two measures is given, or an array has a wrong type.
      ValueError: the shapes differ, or hard_fraction is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> uncertainty, mask = jnp.array([0.1, 0.8, 0.4, 0.5]), jnp.array([True, True, True, False])
      >>> print(f"{losses.hard_token_threshold(uncertainty=uncertainty, mask=mask):.2f}")
      0.40
    """
    function = "hard_token_threshold"
    surprise, mask, hard_fraction, logarithmic = _ranking(function, uncertainty, target_log_probs, mask, hard_fraction)
    threshold = _threshold(surprise, mask, hard_fraction)
    # Of log p the complement is taken by expm1, which keeps the digits of a small UNC.
    threshold = -jnp.expm1(-threshold) if logarithmic else threshold
    return jnp.where(jnp.any(mask), threshold, 0)


def atkd_token_weights(
    *, hard: jax.Array, mask: jax.Array, easy_weight: float = 0.2, normalizer: str = "group_mean"
) -> tuple[jax.Array, jax.Array]:
    """Returns what every token's TKD and DKD are multiplied by, so that ATKD is the sum of the products.

    atkd = sum(target_weight * TKD + diversity_weight * DKD). A hard token has (1 - easy_weight) / n_hard on both, an
    easy one easy_weight / n_easy on DKD alone. `normalizer="total_tokens"` puts the number of all counted tokens in
    place of n_hard and n_easy, which gives about half the loss.

    Args:
      hard: bool `[...]`, as from `hard_token_mask` over the whole batch.
      mask: bool `[...]`, True where a token counts.
      easy_weight: lambda, in [0, 1]; may be a traced scalar.
      normalizer: "group_mean" or "total_tokens".

    Returns:
      `(target_weight, diversity_weight)`, `[...]` each, in float32 (float64 under jax_enable_x64); 0 where a token does
      not count. An empty group has no weight.

    Gradient:
      By `easy_weight` only.

    Raises:
      TypeError: `hard` or `mask` is not boolean.
      ValueError: the shapes differ, easy_weight is out of range, or the normalizer is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> hard, mask = jnp.array([True, True, False, False]), jnp.array([True, True, True, False])
      >>> target_weight, diversity_weight = losses.atkd_token_weights(hard=hard, mask=mask)
      >>> print(target_weight, diversity_weight)
      [0.4 0.4 0.  0. ] [0.4 0.4 0.2 0. ]

    Reference:
      Zhong et al., arXiv 2402.11890, section 3, equation 6.
    """
    validation.choice("atkd_token_weights", "normalizer", normalizer, NORMALIZERS)
    easy_weight = validation.weight("atkd_token_weights", "easy_weight", easy_weight, largest=1.0)
    mask = validation.boolean("atkd_token_weights", "mask", mask, jnp.shape(mask))
    hard = validation.boolean("atkd_token_weights", "hard", hard, mask.shape) & mask
    easy = mask & ~hard
    hard_tokens, easy_tokens = jnp.sum(hard), jnp.sum(easy)
    if normalizer == "total_tokens":
        hard_tokens = easy_tokens = hard_tokens + easy_tokens
    share = jnp.asarray(easy_weight, jnp.result_type(float))
    on_hard = (1 - share) / jnp.maximum(hard_tokens, 1).astype(share.dtype)
    on_easy = share / jnp.maximum(easy_tokens, 1).astype(share.dtype)
    target_weight = jnp.where(hard, on_hard, 0)
    return target_weight, jnp.where(easy, on_easy, target_weight)


def _ranking(function: str, uncertainty, target_log_probs, mask, hard_fraction):
    """Returns a measure that rises with UNC, the mask, the fraction, and whether the measure is -log p."""
    if (uncertainty is None) == (target_log_probs is None):
        came = "neither" if uncertainty is None else "both"
        raise TypeError(
            f"{function}: exactly one of uncertainty and target_log_probs must be given, got {came}; "
            "target_log_probs is the more exact one"
        )
    hard_fraction = validation.fraction(function, "hard_fraction", hard_fraction)
    logarithmic = uncertainty is None
    name = "target_log_probs" if logarithmic else "uncertainty"
    measure = jnp.asarray(target_log_probs if logarithmic else uncertainty)
    if not jnp.issubdtype(measure.dtype, jnp.floating):
        raise TypeError(f"{function}: {name} must be of floating type, got {measure.dtype}; pass one number per token")
    mask = validation.boolean(function, "mask", mask, measure.shape)
    return (-measure if logarithmic else measure), mask, hard_fraction, logarithmic


def _threshold(surprise: jax.Array, mask: jax.Array, hard_fraction: float) -> jax.Array:
    """Returns element floor((n - 1) (1 - hard_fraction)) of the n counted values in ascending order."""
    if mask.size == 0:
        return jnp.asarray(jnp.inf, surprise.dtype)
    ascending = jnp.sort(jnp.where(mask, surprise, jnp.inf).ravel())
    # n is known on the device alone, where float32 would round the product across an integer. The floors for every n
    # are therefore computed here, in float64, and looked up.
    floors = array("i", (floor(number * (1.0 - hard_fraction)) for number in range(mask.size)))
    counted = jnp.sum(mask)
    return ascending[jnp.asarray(floors, jnp.int32)[jnp.maximum(counted - 1, 0)]]
