"""Any per-token loss as an objective over a whole batch: its mean over the tokens that count."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from atkd_jax.losses import divergences, validation
from atkd_jax.losses.adaptive import adaptive_kl, uncertainty_weighted_kl
from atkd_jax.losses.targets import cross_entropy
from atkd_jax.losses.whole_batch import mean_of_group

_OF_BOTH: dict[str, Callable[..., jax.Array]] = {
    "forward_kl": divergences.forward_kl,
    "reverse_kl": divergences.reverse_kl,
    "generalized_jsd": divergences.generalized_jsd,
    "total_variation": divergences.total_variation,
    "skewed_forward_kl": divergences.skewed_forward_kl,
    "skewed_reverse_kl": divergences.skewed_reverse_kl,
    "adaptive_kl": adaptive_kl,
    "uncertainty_weighted_kl": uncertainty_weighted_kl,
}
_WITH_TARGETS = ("uncertainty_weighted_kl", "cross_entropy")


def mean_divergence(
    *,
    student_logits: jax.Array,
    teacher_logits: jax.Array | None = None,
    targets: jax.Array | None = None,
    mask: jax.Array,
    divergence: str = "forward_kl",
    **options: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns a per-token loss's mean over the counted tokens, in its own unit; `linear_divergence` for full logits.

    It does not shift. What stands at an uncounted position, NaN too, is replaced before any softmax.

    Args:
      student_logits: `[..., vocab]`.
      teacher_logits: the same shape; not needed for cross-entropy.
      targets: `[...]` of integers, token ids at the index of the logits that predict them; needed for cross-entropy and
        uncertainty_weighted_kl.
      mask: bool `[...]`, True where a token counts.
      divergence: the name of the per-token function: "forward_kl", "reverse_kl", "generalized_jsd", "total_variation",
        "skewed_forward_kl", "skewed_reverse_kl", "adaptive_kl", "uncertainty_weighted_kl" or "cross_entropy".
      **options: what else that function takes: temperature, beta, alpha, head_mass or gamma.

    Returns:
      The mean, a scalar, and a dict with `counted_tokens`. The mean over no token is 0.

    Gradient:
      That of the per-token function, divided by the number of counted tokens; 0 where a token does not count.

    Raises:
      TypeError: an array has a wrong type or is missing, or the function has no such option.
      ValueError: shapes do not fit, a number is out of range, or the divergence is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
      >>> arrays = {"student_logits": student, "teacher_logits": teacher, "mask": jnp.array([True])}
      >>> value, _ = losses.mean_divergence(**arrays, divergence="generalized_jsd", beta=0.5)
      >>> print(f"{value:.4f}")
      0.0338
    """
    function = "mean_divergence"
    validation.choice(function, "divergence", divergence, (*_OF_BOTH, "cross_entropy"))
    logits = {"student_logits": student_logits}
    if divergence != "cross_entropy":
        logits["teacher_logits"] = validation.needed(function, divergence, "teacher_logits", teacher_logits)
    logits = dict(zip(logits, validation.floating(function, **logits), strict=True))
    shape = logits["student_logits"].shape[:-1]
    mask = validation.boolean(function, "mask", mask, shape)
    arrays = {name: jnp.where(mask[..., None], array, 0) for name, array in logits.items()}
    if divergence in _WITH_TARGETS:
        targets = validation.needed(function, divergence, "targets", targets)
        arrays["targets"] = jnp.where(mask, validation.integers(function, "targets", targets, shape), 0)
    per_token = _OF_BOTH.get(divergence, cross_entropy)(**arrays, **options)
    return mean_of_group(per_token, mask), {"counted_tokens": jnp.sum(mask).astype(jnp.float32)}
