"""The mathematics under every loss: three functions with exact derivatives, in log space.

Each has its derivative written in closed form, which is cheaper than what autodiff finds and free of the NaNs that
autodiff meets at logits of -inf. Both modes of differentiation work, to any order. What a derivative needs of the
size of the logits is recomputed rather than kept (`jax.checkpoint`), so that nothing of that size outlives the
forward pass but the logits themselves.

Distributions are over the last axis. A row of logits that is -inf throughout is an empty distribution: no mass
anywhere, and every divergence from it is 0.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# A derivative's large intermediates are formed again in the backward pass. The barrier that keeps XLA from merging
# them with the forward pass is left out, because merging them is right wherever it costs no memory.
recomputed = partial(jax.checkpoint, prevent_cse=False)


def is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns bool `[..., vocab]`, True in the target's column.

    A comparison and not a scatter: XLA fuses it into the loops that read the logits, and it needs no communication
    where the vocabulary is split over devices.
    """
    columns = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return columns == targets[..., None]


def without_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the logits with -inf in the target's column: the distribution of the rest, once it is normalised."""
    return jnp.where(is_target(logits, targets), -jnp.inf, logits)


def normalized(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `(shifted, log_sum, mass)` with log p = shifted - log_sum.

    `shifted` is the logits less their maximum, `log_sum` its log-sum-exp `[..., 1]`. The two are kept apart because at
    logits of 1e4 their sum has lost the digits that the difference needs. `mass` is False for an empty distribution,
    whose `log_sum` is 0.
    """
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - jnp.where(largest == -jnp.inf, 0, largest)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True)
    mass = total != 0
    return shifted, jnp.log(jnp.where(mass, total, 1)), mass


def log_probabilities(logits: jax.Array) -> jax.Array:
    """Returns log p, no less than -1e30, so that 0 log 0 is 0 without a guard at every place where it occurs."""
    shifted, log_sum, _ = normalized(logits)
    return jnp.maximum(shifted - log_sum, -1e30)


@jax.custom_jvp
def relative_entropy(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """Returns KL(p || q) = sum_j p_j (log p_j - log q_j), in nats, `[...]`; inf where q is 0 and p is not.

    Derivative: dKL = sum_j (q_j - p_j) dq_logits_j + sum_j p_j (log p_j - log q_j - KL) dp_logits_j. The second sum is
      0 by definition where KL is inf, since no derivative exists there.
    """
    p_shifted, p_log_sum, p_mass = normalized(p_logits)
    q_shifted, q_log_sum, _ = normalized(q_logits)
    p = jnp.exp(p_shifted - p_log_sum)
    mean_gap = jnp.sum(jnp.where(p > 0, p * (p_shifted - q_shifted), 0), axis=-1, keepdims=True)
    divergence = jnp.where(p_mass, mean_gap - p_log_sum + q_log_sum, 0)
    # Rounding can leave a hair below 0 where p and q agree.
    return jnp.maximum(divergence, 0)[..., 0]


@partial(relative_entropy.defjvp, symbolic_zeros=True)
def _relative_entropy_jvp(primals, tangents):
    divergence = relative_entropy(*primals)
    p_tangent, q_tangent = tangents

    @recomputed
    def by_q(p_logits, q_logits, tangent):
        p_shifted, p_log_sum, p_mass = normalized(p_logits)
        q_shifted, q_log_sum, _ = normalized(q_logits)
        slope = jnp.exp(q_shifted - q_log_sum) - jnp.exp(p_shifted - p_log_sum)
        return jnp.sum(jnp.where(p_mass, slope, 0) * tangent, axis=-1)

    @recomputed
    def by_p(p_logits, q_logits, divergence, tangent):
        p_shifted, p_log_sum, _ = normalized(p_logits)
        q_shifted, q_log_sum, _ = normalized(q_logits)
        p_log_probs = p_shifted - p_log_sum
        p = jnp.exp(p_log_probs)
        has_slope = (p > 0) & jnp.isfinite(divergence)[..., None]
        excess = jnp.where(has_slope, p_log_probs - (q_shifted - q_log_sum) - divergence[..., None], 0)
        return jnp.sum(p * excess * tangent, axis=-1)

    change = jnp.zeros_like(divergence)
    if not isinstance(q_tangent, SymbolicZero):
        change = change + by_q(*primals, q_tangent)
    if not isinstance(p_tangent, SymbolicZero):
        change = change + by_p(*primals, divergence, p_tangent)
    return divergence, change


@jax.custom_jvp
def target_margin(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns z_target - log sum_{j != target} exp z_j, `[...]`: the logit of the target's probability.

    With it log p = log_sigmoid(margin) and log(1 - p) = log_sigmoid(-margin), both to the last digit, also where p is 1
    to machine precision. It is inf where the target has all the mass, and NaN for a target outside of the vocabulary.

    Derivative: d margin = dz_target - sum_{j != target} p^_j dz_j, with p^ the distribution of the rest.
    """
    vocabulary = logits.shape[-1]
    rest = without_target(logits, targets)
    largest = jnp.max(rest, axis=-1)
    shift = jnp.where(largest == -jnp.inf, 0, largest)
    _, log_sum, mass = normalized(rest)
    known = (targets >= 0) & (targets < vocabulary)
    columns = jnp.where(known, targets, 0)[..., None]
    target_logit = jnp.take_along_axis(logits, columns, axis=-1, mode="promise_in_bounds")[..., 0]
    margin = jnp.where(mass[..., 0], target_logit - shift - log_sum[..., 0], jnp.inf)
    return jnp.where(known, margin, jnp.nan)


@partial(target_margin.defjvp, symbolic_zeros=True)
def _target_margin_jvp(primals, tangents):
    margin = target_margin(*primals)
    tangent, _ = tangents

    @recomputed
    def by_logits(logits, targets, tangent):
        shifted, log_sum, _ = normalized(without_target(logits, targets))
        slope = jnp.where(is_target(logits, targets), 1, -jnp.exp(shifted - log_sum))
        return jnp.sum(slope * tangent, axis=-1)

    if isinstance(tangent, SymbolicZero):
        return margin, jnp.zeros_like(margin)
    return margin, by_logits(*primals, tangent)


@jax.custom_jvp
def binary_relative_entropy(p_margin: jax.Array, q_margin: jax.Array) -> jax.Array:
    """Returns KL between two distributions over (target, rest), each given by its margin, in nats, `[...]`.

    Derivative: (q - p) dq_margin + p (1 - p) (p_margin - q_margin) dp_margin, with p and q the target's probabilities;
      the second term is 0 by definition where the divergence is inf.
    """

    def part(sign):
        probability = jax.nn.sigmoid(sign * p_margin)
        gap = jax.nn.log_sigmoid(sign * p_margin) - jax.nn.log_sigmoid(sign * q_margin)
        # Not "> 0", which would turn a NaN into 0.
        return jnp.where(probability == 0, 0, probability * gap)

    return jnp.maximum(part(1) + part(-1), 0)


@binary_relative_entropy.defjvp
def _binary_relative_entropy_jvp(primals, tangents):
    p_margin, q_margin = primals
    p_tangent, q_tangent = tangents
    # Between two probabilities near 1 the difference is taken of their complements, which still have their digits.
    by_q = jnp.where(
        q_margin > 0,
        jax.nn.sigmoid(-p_margin) - jax.nn.sigmoid(-q_margin),
        jax.nn.sigmoid(q_margin) - jax.nn.sigmoid(p_margin),
    )
    spread = jax.nn.sigmoid(p_margin) * jax.nn.sigmoid(-p_margin)
    has_slope = (spread > 0) & jnp.isfinite(q_margin)
    by_p = spread * jnp.where(has_slope, p_margin - q_margin, 0)
    return binary_relative_entropy(p_margin, q_margin), by_q * q_tangent + by_p * p_tangent


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_mixture_ratio(gap: jax.Array, q_weight: float) -> jax.Array:
    """Returns log((1 - w) + w exp(gap)) = log(mixture / p) where gap = log(q / p), exact for small and large gaps."""
    far_weight = jnp.where(gap > 0, 1 - q_weight, q_weight).astype(gap.dtype)
    return jnp.maximum(gap, 0) + jnp.log1p(far_weight * jnp.expm1(-jnp.abs(gap)))


@log_mixture_ratio.defjvp
def _log_mixture_ratio_jvp(q_weight, primals, tangents):
    (gap,), (tangent,) = primals, tangents
    log_odds = jnp.log(jnp.asarray(q_weight / (1 - q_weight), gap.dtype))
    return log_mixture_ratio(gap, q_weight), jax.nn.sigmoid(gap + log_odds) * tangent
