"""Two models' distributions without the target, compared in one go: KL of the rests, and the target's margin in each.

The numbers are those of `log_space.relative_entropy` of the rests and of `log_space.target_margin`. Together they cost
what a KL costs: each pass over the vocabulary reads the logits themselves, so that none writes logits with a word or a
token left out.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from atkd_jax.losses.log_space import is_target, recomputed


class RestTerms(NamedTuple):
    """Of every token, `[...]`.

    Attributes:
      divergence: KL(p^ || q^) of the distributions without the target, in nats.
      p_margin: the logit of p's probability of the target, see `log_space.target_margin`.
      q_margin: likewise of q.
    """

    divergence: jax.Array
    p_margin: jax.Array
    q_margin: jax.Array


class _Rest(NamedTuple):
    """One distribution without the target, `[..., 1]` each; see `rest.Rest` for the same, block by block."""

    shift: jax.Array
    log_total: jax.Array
    has_mass: jax.Array
    margin: jax.Array

    def log_probs(self, logits: jax.Array, left_out: jax.Array) -> jax.Array:
        return jnp.where(left_out, -jnp.inf, logits - self.shift - self.log_total)


def rest_terms(p_logits: jax.Array, q_logits: jax.Array, targets: jax.Array, mask: jax.Array | None) -> RestTerms:
    """Returns the terms of two arrays of logits `[..., vocab]`, 0 where a token does not count.

    Args:
      p_logits: of the distribution that the expectation is under.
      q_logits: of the other one.
      targets: `[...]` of integers; a target outside of the vocabulary gives NaN.
      mask: bool `[...]`, True where a token counts; None counts all. What stands elsewhere, NaN too, has no influence.

    Gradient: by both logits, in closed form:
      d divergence = sum_j (q^_j - p^_j) dq_logits_j + sum_j p^_j (log p^_j - log q^_j - divergence) dp_logits_j over
      j != target, d margin = dz_target - sum_j p^_j dz_j.
    """
    return _rest_terms(p_logits, q_logits, targets, mask)


@jax.custom_jvp
def _rest_terms(p_logits, q_logits, targets, mask) -> RestTerms:
    p, p_shifted = _rest_of(p_logits, targets, mask)
    q, q_shifted = _rest_of(q_logits, targets, mask)
    weight = jnp.exp(p_shifted)
    gap = jnp.sum(jnp.where(weight > 0, weight * (p_shifted - q_shifted), 0), axis=-1, keepdims=True)
    mean_gap = gap / jnp.where(p.has_mass, jnp.exp(p.log_total), 1)
    # Rounding can leave a hair below 0 where p and q agree.
    divergence = jnp.maximum(jnp.where(p.has_mass, mean_gap - p.log_total + q.log_total, 0), 0)
    known = (targets >= 0) & (targets < p_logits.shape[-1])
    known = known if mask is None else known | ~mask
    terms = (jnp.where(known, term[..., 0], jnp.nan) for term in (divergence, p.margin, q.margin))
    return RestTerms(*terms)


def _rest_of(logits: jax.Array, targets: jax.Array, mask: jax.Array | None) -> tuple[_Rest, jax.Array]:
    """Returns a distribution without the target, and its logits less their maximum, -inf where they are left out."""
    left_out = _left_out(logits, targets, mask)
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(left_out, -jnp.inf, logits), axis=-1, keepdims=True))
    shift = jnp.where(largest == -jnp.inf, 0, largest)
    shifted = jnp.where(left_out, -jnp.inf, logits - shift)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True)
    has_mass = total != 0
    log_total = jnp.log(jnp.where(has_mass, total, 1))
    column = jnp.clip(targets, 0, logits.shape[-1] - 1)[..., None]
    target_logit = jnp.take_along_axis(logits, column, axis=-1, mode="promise_in_bounds")
    margin = jnp.where(has_mass, target_logit - shift - log_total, jnp.inf)
    if mask is not None:
        margin = jnp.where(mask[..., None], margin, 0)
    return _Rest(shift, log_total, has_mass, margin), shifted


def _left_out(logits: jax.Array, targets: jax.Array, mask: jax.Array | None) -> jax.Array:
    at_target = is_target(logits, targets)
    return at_target if mask is None else at_target | ~mask[..., None]


@partial(_rest_terms.defjvp, symbolic_zeros=True)
def _rest_terms_jvp(primals, tangents):
    p_logits, q_logits, targets, mask = primals
    p_tangent, q_tangent = tangents[:2]
    terms = _rest_terms(*primals)
    p, q = (_rest_of(logits, targets, mask)[0] for logits in (p_logits, q_logits))

    def margin_change(probs, tangent):
        slope = jnp.where(is_target(probs, targets), 1, -probs)
        return jnp.sum((slope if mask is None else jnp.where(mask[..., None], slope, 0)) * tangent, axis=-1)

    @recomputed
    def by_q(p_logits, q_logits, p, q, tangent):
        left_out = _left_out(q_logits, targets, mask)
        q_probs = jnp.exp(q.log_probs(q_logits, left_out))
        slope = jnp.where(p.has_mass, q_probs - jnp.exp(p.log_probs(p_logits, left_out)), 0)
        return jnp.sum(slope * tangent, axis=-1), margin_change(q_probs, tangent)

    @recomputed
    def by_p(p_logits, q_logits, p, q, divergence, tangent):
        left_out = _left_out(p_logits, targets, mask)
        p_log_probs = p.log_probs(p_logits, left_out)
        p_probs = jnp.exp(p_log_probs)
        # No derivative exists where the divergence is inf.
        has_slope = (p_probs > 0) & jnp.isfinite(divergence)[..., None]
        excess = p_log_probs - q.log_probs(q_logits, left_out) - divergence[..., None]
        slope = p_probs * jnp.where(has_slope, excess, 0)
        return jnp.sum(slope * tangent, axis=-1), margin_change(p_probs, tangent)

    zero = jnp.zeros_like(terms.divergence)
    change = RestTerms(zero, zero, zero)
    if not isinstance(q_tangent, SymbolicZero):
        of_divergence, of_margin = by_q(p_logits, q_logits, p, q, q_tangent)
        change = change._replace(divergence=of_divergence, q_margin=of_margin)
    if not isinstance(p_tangent, SymbolicZero):
        of_divergence, of_margin = by_p(p_logits, q_logits, p, q, terms.divergence, p_tangent)
        change = change._replace(divergence=change.divergence + of_divergence, p_margin=of_margin)
    return terms, change
