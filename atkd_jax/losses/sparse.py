"""A teacher's signal with a few words a token in place of the whole vocabulary, and what each loss makes of it.

Whatever the kind, three numbers a token are exact: log p(target), log UNC and the entropy of the non-target
distribution p^. The gate of ATKD and TKD need no more. What is known of the other words differs:

- `TopKSignal`: the teacher's likeliest words with their probabilities, and the mass of all others in one number. Losses
  take the others as one cell, in both models. By the data-processing inequality that never makes an f-divergence
  larger.
- `TopKSignal` with a `TailSample`: besides, draws from the others.
- `RestSample`: draws from p^ alone, by which expectations under p^ are unbiased.

`SPARSE_FORMS` says what becomes of every loss.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation

KINDS = ("top_k", "top_k_tail", "rest_sample", "hidden")


class TailSample(NamedTuple):
    """Draws from the words that are neither listed nor the target.

    Attributes:
      ids: int32 `[..., n]`, the distinct words that were drawn; -1 is unused.
      weights: float32 `[..., n]`, such that sum_j weight_j f(id_j) is an unbiased estimate of the sum of p_j f(j) over
        the words that they were drawn from; 0 where unused.
    """

    ids: jax.Array
    weights: jax.Array


class TopKSignal(NamedTuple):
    """The teacher's likeliest words of every token, at temperature 1.

    Attributes:
      target_log_prob: float32 `[...]`, log p(target).
      log_uncertainty: float32 `[...]`, log UNC = log(1 - p(target)).
      rest_entropy: float32 `[...]`, the entropy of the non-target distribution p^, in nats. Losses read it only where
        there is a tail sample.
      ids: int32 `[..., k]`, distinct, ids of the vocabulary; the target may be among them. -1 is unused.
      log_probs: float32 `[..., k]`, log p of the ids; -inf where unused.
      log_rest_mass: float32 `[...]`, the log of the mass of all other words.
      tail: draws from the other words but the target, or None.
    """

    target_log_prob: jax.Array
    log_uncertainty: jax.Array
    rest_entropy: jax.Array
    ids: jax.Array
    log_probs: jax.Array
    log_rest_mass: jax.Array
    tail: TailSample | None = None


class RestSample(NamedTuple):
    """Draws with replacement from the renormalised non-target distribution p^ of every token.

    Attributes:
      target_log_prob: float32 `[...]`, log p(target).
      log_uncertainty: float32 `[...]`, log UNC = log(1 - p(target)).
      rest_entropy: float32 `[...]`, the entropy of p^, in nats.
      ids: int32 `[..., m]`, the distinct words that were drawn; -1 is unused.
      counts: int32 `[..., m]`, how often; 0 where unused. Together they are the number of draws, or 0 where the teacher
        leaves no other word.
    """

    target_log_prob: jax.Array
    log_uncertainty: jax.Array
    rest_entropy: jax.Array
    ids: jax.Array
    counts: jax.Array


SparseSignal = TopKSignal | RestSample


class SparseForm(NamedTuple):
    """What a loss from a sparse signal is beside the loss from the whole distributions.

    Attributes:
      value: "exact", "unbiased" or "lower bound".
      gradient: "exact", "unbiased", or "of the bound", whose value it is the gradient of.
      bound: how far the value may lie below, or "".
    """

    value: str
    gradient: str
    bound: str


_EXACT = SparseForm("exact", "exact", "")
_UNBIASED = SparseForm("unbiased", "unbiased", "")
# With P and Q the mass of the words outside in teacher and student, and p~ and q~ their distributions there.
_GAPS = {
    "forward_kl": "P KL(p~, q~), which has no limit",
    "reverse_kl": "Q KL(q~, p~), which has no limit",
    "generalized_jsd": "at most bP log(M / bP) + (1 - b)Q log(M / (1 - b)Q) with M = bP + (1 - b)Q and b = beta",
    "total_variation": "at most min(P, Q)",
    "skewed_forward_kl": "at most P log((aP + (1 - a)Q) / aP) with a = alpha",
    "skewed_reverse_kl": "at most Q log((aQ + (1 - a)P) / aQ) with a = alpha",
    "uncertainty_weighted_kl": "UNC^(gamma - 1) P KL(p~, q~), which has no limit",
}
_OF_FORWARD = ("forward_kl", "uncertainty_weighted_kl")


def _forms(loss: str, gap: str) -> dict[str, SparseForm]:
    bound = SparseForm("lower bound", "of the bound", gap)
    forms = {"top_k": bound, "top_k_tail": bound, "hidden": _EXACT}
    if loss in _OF_FORWARD:
        forms |= {"top_k_tail": _UNBIASED, "rest_sample": _UNBIASED}
    return forms


# Loss -> kind -> form. What is not there is refused. The two parts of a divergence: that of the target, TKD, is exact
# from every kind; that of the rest, DKD, is what the whole divergence is here.
SPARSE_FORMS: dict[str, dict[str, SparseForm]] = {loss: _forms(loss, gap) for loss, gap in _GAPS.items()} | {
    "cross_entropy": dict.fromkeys(KINDS, _EXACT),
    "target_kd": dict.fromkeys(KINDS, _EXACT),
    "adaptive_kl": {},
}


def sparse_form(*, loss: str, kind: str) -> SparseForm:
    """Returns what a loss from one kind of signal is: exact, unbiased, or a lower bound.

    For `diversity_kd`, `atkd` and `decoupled_kd` ask for the divergence that they take apart: "forward_kl" by default,
    "reverse_kl" in that direction. Their TKD and their gate are exact.

    Args:
      loss: the name of a per-token function.
      kind: "top_k", "top_k_tail", "rest_sample" or "hidden".

    Raises:
      ValueError: the kind is unknown, or that loss cannot be had from it.

    Example:
      >>> from atkd_jax import losses
      >>> losses.sparse_form(loss="forward_kl", kind="rest_sample").gradient
      'unbiased'
      >>> losses.sparse_form(loss="total_variation", kind="top_k").bound
      'at most min(P, Q)'
    """
    validation.choice("sparse_form", "kind", kind, KINDS)
    validation.choice("sparse_form", "loss", loss, tuple(SPARSE_FORMS))
    form = SPARSE_FORMS[loss].get(kind)
    if form is not None:
        return form
    if loss == "adaptive_kl":
        raise ValueError(
            f"sparse_form: adaptive_kl sorts the whole vocabulary and weighs its tail, which {kind} does not hold; "
            "take forward_kl or generalized_jsd, or the live teacher"
        )
    raise ValueError(
        f"sparse_form: {loss} needs the teacher's probability of words that the student may say, and a rest_sample "
        "holds draws from the teacher alone; take forward_kl, or a signal of kind top_k or hidden"
    )


def kind_of(signal: SparseSignal) -> str:
    """Returns "top_k", "top_k_tail" or "rest_sample"."""
    if isinstance(signal, RestSample):
        return "rest_sample"
    return "top_k" if signal.tail is None else "top_k_tail"


def checked(function: str, signal, leading: tuple[int, ...]) -> SparseSignal:
    """Returns a signal whose arrays fit the tokens `leading`, constant under differentiation.

    Raises:
      TypeError: it is no signal, or an array has a wrong type.
      ValueError: the shapes do not fit.
    """
    if not isinstance(signal, TopKSignal | RestSample):
        raise TypeError(
            f"{function}: signal must be a TopKSignal or a RestSample, got {type(signal).__name__}; build one with "
            "top_k_signal or rest_sample"
        )
    words = signal.ids.shape[-1:]
    expected = {"ids": (jnp.integer, words), "log_probs": (jnp.floating, words), "counts": (jnp.integer, words)}
    for name, array in signal._asdict().items():
        if name == "tail":
            continue
        kind, last = expected.get(name, (jnp.floating, ()))
        _check(function, f"signal.{name}", array, kind, (*leading, *last))
    if isinstance(signal, TopKSignal) and signal.tail is not None:
        last = signal.tail.ids.shape[-1:]
        _check(function, "signal.tail.ids", signal.tail.ids, jnp.integer, (*leading, *last))
        _check(function, "signal.tail.weights", signal.tail.weights, jnp.floating, (*leading, *last))
    return jax.lax.stop_gradient(signal)


def _check(function: str, name: str, array, kind, shape: tuple[int, ...]) -> None:
    if not jnp.issubdtype(array.dtype, kind):
        wanted = "integer" if kind is jnp.integer else "floating"
        raise TypeError(f"{function}: {name} must be of {wanted} type, got {array.dtype}; build it as its class says")
    if array.shape != shape:
        raise ValueError(
            f"{function}: {name} must have shape {shape}, the student's positions and its own words, got "
            f"{array.shape}; slice the signal as the student is sliced"
        )


def harmless(signal: SparseSignal, mask: jax.Array) -> SparseSignal:
    """Returns the signal with nothing in it where a token does not count: no words, and an even coin for the target."""
    half = -0.6931471805599453

    def kept(array: jax.Array, otherwise: float) -> jax.Array:
        counted = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        return jnp.where(counted, array, jnp.asarray(otherwise, array.dtype))

    signal = signal._replace(
        target_log_prob=kept(signal.target_log_prob, half),
        log_uncertainty=kept(signal.log_uncertainty, half),
        rest_entropy=kept(signal.rest_entropy, 0.0),
        ids=kept(signal.ids, -1),
    )
    if isinstance(signal, RestSample):
        return signal._replace(counts=kept(signal.counts, 0))
    tail = signal.tail
    if tail is not None:
        tail = TailSample(kept(tail.ids, -1), kept(tail.weights, 0.0))
    return signal._replace(
        log_probs=kept(signal.log_probs, -jnp.inf), log_rest_mass=kept(signal.log_rest_mass, -jnp.inf), tail=tail
    )
