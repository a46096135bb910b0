"""What a sparse signal says of a teacher, in NumPy float64, from the definitions."""

from functools import partial

import jax
import numpy as np

from atkd_jax import losses

FORWARD = ("forward_kl", "uncertainty_weighted_kl")
SHARES = {"generalized_jsd": {"beta": 0.3}, "skewed_forward_kl": {"alpha": 0.2}, "skewed_reverse_kl": {"alpha": 0.2}}
NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")


def random_case(seed=0, shape=(3, 4), vocabulary=9, scale=2.0):
    """Returns the student's and the teacher's logits, and targets."""
    rng = np.random.default_rng(seed)
    student, teacher = (scale * rng.normal(size=(2, *shape, vocabulary))).astype(np.float32)
    return student, teacher, rng.integers(0, vocabulary, shape).astype(np.int32)


def listed(teacher, targets, k):
    """Returns bool `[..., vocab]`: the k likeliest words and the target, of which alone something is known."""
    order = np.argsort(-np.asarray(teacher, np.float64), axis=-1, kind="stable")[..., :k]
    is_listed = np.zeros(teacher.shape, bool)
    np.put_along_axis(is_listed, order, True, -1)
    np.put_along_axis(is_listed, np.asarray(targets)[..., None], True, -1)
    return is_listed


def coarse_logits(logits, is_listed):
    """Returns logits of a distribution that has the unlisted words' mass in a column of its own, at the end."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(divide="ignore"):
        others = np.log(np.where(is_listed, 0, np.exp(logits)).sum(-1, keepdims=True))
    return np.concatenate([np.where(is_listed, logits, -np.inf), others], -1)


@partial(jax.jit, static_argnames=("k", "tail_draws"))
def top_k_signal(teacher, targets, keys=None, *, k, tail_draws=0):
    return losses.top_k_signal(teacher_logits=teacher, targets=targets, k=k, tail_draws=tail_draws, keys=keys)


@partial(jax.jit, static_argnames="draws")
def rest_sample(teacher, targets, keys, *, draws):
    return losses.rest_sample(teacher_logits=teacher, targets=targets, draws=draws, keys=keys)


def keys_of(targets, seed=0):
    """Returns a random key for every token."""
    return jax.random.split(jax.random.key(seed), targets.shape)


def signal_of(kind, teacher, targets, seed=0):
    """Returns a signal of 3 words, with 4 draws from the tail or of 6 draws from the rest."""
    if kind == "rest_sample":
        return rest_sample(teacher, targets, keys_of(targets, seed), draws=6)
    tail_draws = 4 if kind == "top_k_tail" else 0
    return top_k_signal(teacher, targets, keys_of(targets, seed), k=3, tail_draws=tail_draws)
