"""Outside oracles: sums written out in NumPy float64, from the definitions and not from our formulas."""

from types import SimpleNamespace

import numpy as np
import pytest


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)


def divergence(name, student, teacher, *, share=None):
    """Returns the divergence of that name, per token; `share` is beta or alpha."""
    p, q = softmax(teacher), softmax(student)
    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    if name == "generalized_jsd":
        mixture = share * p + (1 - share) * q
        return share * kl(p, mixture) + (1 - share) * kl(q, mixture)
    if name == "total_variation":
        return np.abs(p - q).sum(-1) / 2
    if name == "skewed_forward_kl":
        return kl(p, share * p + (1 - share) * q)
    if name == "skewed_reverse_kl":
        return kl(q, share * q + (1 - share) * p)
    raise KeyError(name)


def target(probabilities, targets):
    return np.take_along_axis(probabilities, np.asarray(targets)[..., None], -1)[..., 0]


def rest(probabilities, targets):
    """Returns the distribution without the target's column, renormalised, `[..., vocab - 1]`."""
    vocabulary = probabilities.shape[-1]
    keep = np.arange(vocabulary) != np.asarray(targets)[..., None]
    others = probabilities[keep].reshape(*probabilities.shape[:-1], vocabulary - 1)
    return others / others.sum(-1, keepdims=True)


def decoupled(student, teacher, targets, direction="forward"):
    """Returns (TKD, DKD), per token."""
    p, q = softmax(teacher), softmax(student)
    if direction == "reverse":
        p, q = q, p
    coins = [np.stack([target(x, targets), 1 - target(x, targets)], -1) for x in (p, q)]
    return kl(*coins), kl(rest(p, targets), rest(q, targets))


def hard(uncertainty, mask, hard_fraction):
    counted = np.sort(uncertainty[mask])
    if counted.size == 0:
        return np.zeros_like(mask)
    return mask & (uncertainty >= counted[int(np.floor((counted.size - 1) * (1 - hard_fraction)))])


def atkd(student, teacher, targets, mask, *, hard_fraction=0.5, easy_weight=0.2, direction="forward", total=False):
    """Returns the loss, by boolean selection of each group."""
    tkd, dkd = decoupled(student, teacher, targets, direction)
    is_hard = hard(1 - target(softmax(teacher), targets), mask, hard_fraction)
    easy = mask & ~is_hard
    divisors = [mask.sum()] * 2 if total else [is_hard.sum(), easy.sum()]
    on_hard = (tkd + dkd)[is_hard].sum() / max(divisors[0], 1)
    on_easy = dkd[easy].sum() / max(divisors[1], 1)
    return easy_weight * on_easy + (1 - easy_weight) * on_hard


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(
        softmax=softmax,
        kl=kl,
        divergence=divergence,
        target=target,
        rest=rest,
        decoupled=decoupled,
        hard=hard,
        atkd=atkd,
    )


@pytest.fixture(scope="session")
def golden():
    """Returns the case that the design writes down: logits at t paired with the token at t + 1."""
    b, t, v = np.arange(2)[:, None, None], np.arange(7)[None, :, None], np.arange(5)[None, None, :]
    student = np.sin(1.3 * b + 0.7 * t + 1.1 * v)
    teacher = 2 * np.cos(0.9 * b + 0.5 * t + 0.8 * v**2)
    ids = ((3 * b + 2 * t + b * t) % 5)[..., 0].astype(np.int32)
    counted = np.ones((2, 7), bool)
    counted[0, [0, 1]] = False
    counted[1, [0, 1, 2, 6]] = False
    return SimpleNamespace(
        student_logits=student[:, :-1], teacher_logits=teacher[:, :-1], targets=ids[:, 1:], mask=counted[:, 1:]
    )
