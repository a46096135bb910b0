"""The next token out of logits: greedy, or drawn after temperature, top-k and top-p, with a key of its own per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sample(
    logits: jax.Array,
    keys: jax.Array,
    *,
    temperature: jax.Array | float = 1.0,
    top_k: int | None = None,
    top_p: jax.Array | float | None = None,
) -> jax.Array:
    """Return one token id per row, drawn from softmax(logits / temperature) cut to its likeliest tokens.

    `top_k` cuts first, to so many tokens. `top_p` then cuts to the fewest of what is left whose probabilities, made to
    sum to 1 again, reach it (nucleus sampling, Holtzman et al., 2020, arXiv 1904.09751): the likeliest always stays,
    and equals of the last one do too. A row's draw depends on its own logits and key only.

    Args:
        logits: float [B, vocab].
        keys: B random keys.
        temperature: above 0; float, or float [B].
        top_k: a Python integer, because it is the shape of what is drawn from; None for all.
        top_p: in (0, 1], float or float [B]; None for no cut.

    Returns:
        int32 [B].
    """
    logits = logits.astype(jnp.float32) / jnp.asarray(temperature, jnp.float32).reshape(-1, 1)
    ids = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, ids = jax.lax.top_k(logits, top_k)
    if top_p is not None:
        logits = jnp.where(_nucleus(logits, top_p), logits, -jnp.inf)
    drawn = _draw(logits, keys)
    return drawn if ids is None else jnp.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0]


def greedy(logits: jax.Array) -> jax.Array:
    """Return the likeliest token id of each row of `logits` [B, vocab], the lowest of equals: int32 [B]."""
    # Two plain reductions, because on CPUs they take an eighth of the time of one that carries an index along.
    vocab_size = logits.shape[-1]
    numbers = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_top = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_top, numbers, vocab_size - 1), axis=-1)


def _nucleus(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Return which tokens are the fewest that reach `top_p`, equals of the last of them included: bool [B, vocab].

    The vocabulary is not sorted. A token's distance from the likeliest is a float from 0 on, and those are ordered as
    their bits are, so that 31 halvings find the largest distance that is needed, to the last bit.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    distances = jax.lax.bitcast_convert_type(jnp.max(logits, axis=-1, keepdims=True) - logits, jnp.int32)
    wanted = jnp.asarray(top_p, jnp.float32).reshape(-1, 1)

    def halve(_, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        nearest, farthest = bounds
        middle = nearest + (farthest - nearest) // 2
        mass = jnp.sum(jnp.where(distances <= middle, probs, 0.0), axis=-1, keepdims=True)
        reaches = mass >= wanted
        return jnp.where(reaches, nearest, middle + 1), jnp.where(reaches, middle, farthest)

    infinity = jax.lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.int32)
    bounds = jnp.zeros_like(distances[:, :1]), jnp.full_like(distances[:, :1], infinity)
    _, farthest = jax.lax.fori_loop(0, 31, halve, bounds)
    return distances <= farthest


def _draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
