"""What a sparse signal says of a teacher, in NumPy float64, from the definitions."""

import numpy as np

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
