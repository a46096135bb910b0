"""Sparse signals from a teacher's logits.

Every token has a random key of its own, so that what is drawn for it depends neither on the other tokens nor on how the
data is cut. Keys are those of `jax.random.key`, of the default implementation: others may draw otherwise under `vmap`.
"""

from __future__ import annotations

from math import ceil, sqrt

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.log_space import log_probabilities, normalized, target_margin, without_target
from atkd_jax.losses.sparse import RestSample, TailSample, TopKSignal


def top_k_signal(
    *,
    teacher_logits: jax.Array,
    targets: jax.Array,
    k: int,
    tail_draws: int = 0,
    keys: jax.Array | None = None,
) -> TopKSignal:
    """Returns the teacher's k likeliest words of every token, the mass of the others, and what is exact.

    Args:
      teacher_logits: `[..., vocab]`, at temperature 1.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      k: how many words, a Python integer. More than the vocabulary has are unused entries.
      tail_draws: how many draws, with replacement, from the words that are neither among the k nor the target; 0 draws
        none.
      keys: `[...]` of random keys, one for each token; needed for the draws.

    Returns:
      TopKSignal, float32 and int32, ids by falling probability. With draws each weight is the mass that was drawn from,
      times the share of the draws that fell on the word.

    Gradient:
      None; it is data.

    Raises:
      TypeError: an array has a wrong type, or keys are missing.
      ValueError: the shapes do not fit, or a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> teacher = jnp.log(jnp.array([0.5, 0.3, 0.1, 0.1]))
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=jnp.array(1), k=2)
      >>> print(signal.ids.tolist(), f"{jnp.exp(signal.log_rest_mass):.2f}")
      [0, 1] 0.20

    Reference:
      The draws are those of Anshumann et al., Sparse Logit Sampling, arXiv 2503.16870, section 3, from the tail alone.
    """
    function = "top_k_signal"
    logits, targets = _checked(function, teacher_logits, targets)
    k = validation.count(function, "k", k)
    vocabulary = logits.shape[-1]
    log_probs = log_probabilities(logits)
    there = min(k, vocabulary)
    listed, ids = jax.lax.top_k(log_probs, there)
    unused = [(0, 0)] * (ids.ndim - 1) + [(0, k - there)]
    others = jnp.put_along_axis(logits, ids, -jnp.inf, axis=-1, inplace=False)
    tail = None
    if tail_draws:
        tail_draws = validation.count(function, "tail_draws", tail_draws)
        tail_logits = without_target(others, targets)
        drawn, counts = _drawn(tail_logits, _keys(function, keys, targets), tail_draws)
        log_share = _log_mass(tail_logits) - _log_mass(logits)
        tail = TailSample(drawn, jnp.exp(log_share)[..., None] * (counts.astype(jnp.float32) / tail_draws))
    return TopKSignal(
        *_exact(logits, targets),
        ids=jnp.pad(ids.astype(jnp.int32), unused, constant_values=-1),
        log_probs=jnp.pad(jnp.where(listed > -1e30, listed, -jnp.inf), unused, constant_values=-jnp.inf),
        log_rest_mass=_log_mass(others) - _log_mass(logits),
        tail=tail,
    )


def rest_sample(*, teacher_logits: jax.Array, targets: jax.Array, draws: int, keys: jax.Array) -> RestSample:
    """Returns draws, with replacement, from the teacher's renormalised distribution of all words but the target.

    To draw from p and drop the target is something else: of a teacher that is sure of it nothing would be left, and
    what is left would be no estimate of DKD.

    Args:
      teacher_logits: `[..., vocab]`, at temperature 1.
      targets: `[...]` of integers, token ids at the index of the logits that predict them.
      draws: how many, a Python integer.
      keys: `[...]` of random keys, one for each token.

    Returns:
      RestSample with as many places as draws. Where the teacher leaves no word but the target, none is drawn.

    Gradient:
      None; it is data.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes do not fit, or `draws` is less than 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> teacher, keys = jnp.log(jnp.array([[0.9, 0.1, 0.0]])), jax.random.split(jax.random.key(0), 1)
      >>> signal = losses.rest_sample(teacher_logits=teacher, targets=jnp.array([0]), draws=3, keys=keys)
      >>> print(signal.ids.tolist(), signal.counts.tolist())
      [[1, -1, -1]] [[3, 0, 0]]
    """
    function = "rest_sample"
    logits, targets = _checked(function, teacher_logits, targets)
    draws = validation.count(function, "draws", draws)
    ids, counts = _drawn(without_target(logits, targets), _keys(function, keys, targets), draws)
    return RestSample(*_exact(logits, targets), ids, counts)


def _checked(function: str, teacher_logits, targets) -> tuple[jax.Array, jax.Array]:
    (logits,) = validation.floating(function, teacher_logits=teacher_logits)
    targets = validation.integers(function, "targets", targets, logits.shape[:-1])
    return jax.lax.stop_gradient(logits.astype(jnp.float32)), targets


def _keys(function: str, keys, targets: jax.Array) -> jax.Array:
    if keys is None or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        came = "None" if keys is None else str(keys.dtype)
        raise TypeError(f"{function}: keys must be random keys, got {came}; make them with jax.random.key and fold_in")
    if keys.shape != targets.shape:
        raise ValueError(
            f"{function}: keys must be one for every position, shape {targets.shape}, got {keys.shape}; fold the "
            "number of the token into a key"
        )
    return keys


def _exact(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns log p(target), log UNC and the entropy of the rest."""
    margin = target_margin(logits, targets)
    rest = log_probabilities(without_target(logits, targets))
    entropy = -jnp.sum(jnp.exp(rest) * rest, axis=-1)
    return jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin), jnp.maximum(entropy, 0)


def _log_mass(logits: jax.Array) -> jax.Array:
    """Returns the log-sum-exp, `[...]`."""
    largest = jnp.max(logits, axis=-1)
    _, log_sum, mass = normalized(logits)
    return jnp.where(mass[..., 0], largest + log_sum[..., 0], -jnp.inf)


def _drawn(logits: jax.Array, keys: jax.Array, draws: int) -> tuple[jax.Array, jax.Array]:
    """Returns the distinct words that were drawn, and how often each was, `[..., draws]`."""
    shape, vocabulary = keys.shape, logits.shape[-1]
    flat = jax.vmap(lambda row, key: _of_token(row, key, draws))(logits.reshape(-1, vocabulary), keys.reshape(-1))
    ids, counts = (array.reshape(*shape, draws) for array in flat)
    return ids, counts


def _of_token(logits: jax.Array, key: jax.Array, draws: int) -> tuple[jax.Array, jax.Array]:
    """Draws in two stages, a group of words and then a word of the group, each with a number of its own.

    One running sum over a whole vocabulary would lose words of small probability to rounding.
    """
    shifted, _, mass = normalized(logits)
    probabilities = jnp.exp(shifted)
    words = ceil(sqrt(logits.shape[-1]))
    groups = jnp.pad(probabilities, (0, -logits.shape[-1] % words)).reshape(-1, words)
    uniform = jax.random.uniform(key, (2, draws))
    group = _place(jnp.sum(groups, axis=-1)[None], uniform[0])
    chosen = group * words + _place(groups[group], uniform[1])
    # Rounding in a running sum may leave a hair of mass to a word that has none.
    possible = jnp.take(probabilities, chosen, mode="fill", fill_value=0) > 0
    chosen = jnp.where(possible, chosen, jnp.argmax(logits))
    return _distinct(jnp.where(mass, chosen, -1).astype(jnp.int32))


def _place(masses: jax.Array, uniform: jax.Array) -> jax.Array:
    """Returns where in `[draws, n]` masses the running sum first exceeds the uniform share of the whole."""
    running = jnp.cumsum(masses, axis=-1)
    passed = running <= uniform[:, None] * running[:, -1:]
    return jnp.minimum(jnp.sum(passed, axis=-1), masses.shape[-1] - 1)


def _distinct(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    ascending = jnp.sort(chosen)
    is_new = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
    rank = jnp.cumsum(is_new) - 1
    ids = jnp.full(chosen.shape, -1, jnp.int32).at[rank].set(ascending)
    counts = jnp.zeros(chosen.shape, jnp.int32).at[rank].add(1)
    return ids, jnp.where(ids < 0, 0, counts)
