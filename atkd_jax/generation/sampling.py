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
    sum to 1 again, reach it (nucleus sampling, Holtzman et al., 2020, arXiv 1904.09751); the likeliest always stays.
    A row's draw depends on its own logits and key only.

    Args:
        logits: float [B, vocab].
        keys: B random keys.
        temperature: above 0; float, or float [B].
        top_k: a Python integer, because it is the shape of what is drawn from; None for all.
        top_p: in (0, 1]; None for no cut, which saves sorting the vocabulary.

    Returns:
        int32 [B].
    """
    logits = logits.astype(jnp.float32) / jnp.asarray(temperature, jnp.float32).reshape(-1, 1)
    if top_k is None and top_p is None:
        return _draw(logits, keys)
    kept = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
    values, ids = jax.lax.top_k(logits, kept)
    if top_p is not None:
        probs = jax.nn.softmax(values, axis=-1)
        mass_before = jnp.cumsum(probs, axis=-1) - probs
        inside = mass_before < jnp.asarray(top_p, jnp.float32)
        values = jnp.where(inside.at[:, 0].set(True), values, -jnp.inf)
    return jnp.take_along_axis(ids, _draw(values, keys)[:, None], axis=-1)[:, 0].astype(jnp.int32)


def greedy(logits: jax.Array) -> jax.Array:
    """Return the likeliest token id of each row of `logits` [B, vocab], the lowest of equals: int32 [B]."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
