"""Divergences as sums over the vocabulary of a term per word, for those that need both distributions normalised first.

Each function maps log p and log q, `[..., vocab]`, as `log_space.log_probabilities` gives them, to the terms. They are
written once, for whole logits and for blocks of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from atkd_jax.losses.log_space import log_mixture_ratio

Terms = Callable[[jax.Array, jax.Array], jax.Array]

DIVERGENCES = (
    "forward_kl",
    "reverse_kl",
    "generalized_jsd",
    "total_variation",
    "skewed_forward_kl",
    "skewed_reverse_kl",
)


def summed(terms: jax.Array) -> jax.Array:
    """Returns the sum over the last axis, its value kept from rounding below 0; derivatives are those of the sum."""
    total = jnp.sum(terms, axis=-1)
    return total + jax.lax.stop_gradient(jnp.maximum(-total, 0))


def to_mixture(p_log_probs: jax.Array, q_log_probs: jax.Array, *, q_weight: float) -> jax.Array:
    """Returns the terms of KL(p || (1 - w) p + w q), for 0 < w < 1."""
    return -jnp.exp(p_log_probs) * log_mixture_ratio(q_log_probs - p_log_probs, q_weight)


def jensen_shannon(p_log_probs: jax.Array, q_log_probs: jax.Array, *, beta: float) -> jax.Array:
    """Returns the terms of beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, for 0 < beta < 1."""
    from_p = to_mixture(p_log_probs, q_log_probs, q_weight=1 - beta)
    from_q = to_mixture(q_log_probs, p_log_probs, q_weight=beta)
    return beta * from_p + (1 - beta) * from_q


def variation(p_log_probs: jax.Array, q_log_probs: jax.Array) -> jax.Array:
    """Returns the terms of 1/2 sum_j |p_j - q_j|."""
    return jnp.abs(jnp.exp(p_log_probs) - jnp.exp(q_log_probs)) / 2


def swapped(terms: Terms) -> Terms:
    """Returns the terms with p and q exchanged."""
    return lambda p_log_probs, q_log_probs: terms(q_log_probs, p_log_probs)


def kl_direction(divergence: str, *, beta: float, alpha: float) -> str | None:
    """Returns "forward" or "reverse" where a divergence is that KL, by its name or at an end of its share."""
    if divergence == "forward_kl" or (divergence, beta) == ("generalized_jsd", 0):
        return "forward"
    if divergence == "reverse_kl" or (divergence, beta) == ("generalized_jsd", 1):
        return "reverse"
    return {"skewed_forward_kl": "forward", "skewed_reverse_kl": "reverse"}.get(divergence) if alpha == 0 else None


def terms_of(divergence: str, *, beta: float, alpha: float) -> Terms:
    """Returns the terms of a divergence that is no KL, by its function's name; p is the teacher and q the student."""
    if divergence.startswith("skewed") and alpha == 1:
        return lambda p_log_probs, q_log_probs: jnp.zeros_like(q_log_probs)
    table: dict[str, Terms] = {
        "generalized_jsd": partial(jensen_shannon, beta=beta),
        "total_variation": variation,
        "skewed_forward_kl": partial(to_mixture, q_weight=1 - alpha),
        "skewed_reverse_kl": swapped(partial(to_mixture, q_weight=1 - alpha)),
    }
    return table[divergence]
