"""Losses from a sparse teacher signal and the student's logits; `sparse` says what each of them is.

They agree with their counterparts of whole distributions where every word is listed. All are at temperature 1, at which
the signal was taken: the others cannot be told from it. The teacher is constant.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.adaptive import weighted_by_uncertainty
from atkd_jax.losses.decoupling import DecoupledTerms, decoupled_name
from atkd_jax.losses.gate import NORMALIZERS
from atkd_jax.losses.sparse import SparseSignal, checked, harmless
from atkd_jax.losses.sparse_terms import asked, student_of_logits
from atkd_jax.losses.token_terms import Found, Question
from atkd_jax.losses.whole_batch import gated, weighted_mean

DIVERGENCES = (*pointwise.DIVERGENCES, "uncertainty_weighted_kl", "cross_entropy", "target_kd", "adaptive_kl")


def sparse_divergence(
    *,
    student_logits: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    gamma: float = 1.0,
) -> jax.Array:
    """Returns a per-token loss from a sparse signal, one value per token, in the loss's own unit.

    From a top-k signal it is a lower bound of the loss, by the data-processing inequality; with a tail sample, forward
    KL and uncertainty_weighted_kl are unbiased instead. From a rest sample there are those two, unbiased. Cross-entropy
    and target_kd are exact from either. An unbiased value may be negative. `sparse_form` knows all of this.

    Args:
      student_logits: `[..., vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      divergence: "forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl",
        "skewed_reverse_kl", "uncertainty_weighted_kl", "target_kd" or "cross_entropy".
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      gamma: of uncertainty_weighted_kl, not negative; may be a traced scalar.

    Returns:
      `[...]`; NaN where the target is no id of the vocabulary.

    Gradient:
      By the student's logits. From a rest sample its mean over draws is that of the whole loss; from a top-k signal it
      is the bound's, which leaves the student's ranking of the words outside as it is.

    Raises:
      TypeError: an array has a wrong type, or a share is not a Python number.
      ValueError: shapes do not fit, a number is out of range, the divergence is unknown, or it cannot be had from this
        kind of signal.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([1.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.0])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=jnp.array(0), k=1)
      >>> print(f"{losses.sparse_divergence(student_logits=student, signal=signal, targets=jnp.array(0)):.4f}")
      0.0514
      >>> print(f"{losses.forward_kl(student_logits=student, teacher_logits=teacher):.4f}")
      0.1376
    """
    function = "sparse_divergence"
    validation.choice(function, "divergence", divergence, DIVERGENCES)
    gamma = validation.weight(function, "gamma", gamma)
    logits, signal, targets = _checked(function, student_logits, signal, targets)
    if divergence in ("cross_entropy", "target_kd"):
        answer = _answer(function, "forward_kl", logits, signal, targets, None, beta, alpha, has_rest=False)
        terms = answer.question.decoupled_terms(answer.found)
        return -terms.student_target_log_prob if divergence == "cross_entropy" else terms.target_kd
    if divergence in pointwise.DIVERGENCES:
        answer = _answer(function, divergence, logits, signal, targets, None, beta, alpha, decoupled=False)
        return answer.question.terms(answer.found)["divergence"]
    answer = _answer(function, "forward_kl", logits, signal, targets, None, beta, alpha, loss=divergence)
    return weighted_by_uncertainty(answer.terms(), gamma)


def sparse_decoupled_divergence(
    *,
    student_logits: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
) -> DecoupledTerms:
    """Returns any divergence's two parts from a sparse signal, as `decoupled_divergence` does from whole logits.

    `target_kd` and the log probabilities are exact. `diversity_kd` is a lower bound from a top-k signal; of forward KL
    it is unbiased from a rest sample, or with a tail sample.

    Args:
      student_logits: `[..., vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      divergence: as in `decoupled_divergence`.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.

    Returns:
      DecoupledTerms.

    Gradient:
      By the student's logits, see `sparse_divergence`.

    Raises:
      TypeError: an array has a wrong type, or a share is not a Python number.
      ValueError: shapes do not fit, a number is out of range, the divergence is unknown, or it cannot be had from this
        kind of signal.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([1.0, 0.0, 0.5]), jnp.array([2.0, 1.0, 0.0])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=jnp.array(0), k=2)
      >>> terms = losses.sparse_decoupled_divergence(student_logits=student, signal=signal, targets=jnp.array(0))
      >>> print(f"{terms.target_kd:.4f} {terms.diversity_kd:.4f}")
      0.0514 0.2574
    """
    function = "sparse_decoupled_divergence"
    validation.choice(function, "divergence", divergence, pointwise.DIVERGENCES)
    logits, signal, targets = _checked(function, student_logits, signal, targets)
    return _answer(function, divergence, logits, signal, targets, None, beta, alpha).terms()


def sparse_atkd(
    *,
    student_logits: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    mask: jax.Array,
    hard_fraction: float = 0.5,
    easy_weight: float = 0.2,
    direction: str = "forward",
    normalizer: str = "group_mean",
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the ATKD loss of a batch from a sparse signal, in nats, and the diagnostics of `atkd`.

    The gate and TKD are exact from every kind. DKD, and with it the loss, is unbiased in value and gradient from a rest
    sample and a lower bound from a top-k signal.

    Args:
      student_logits: `[..., vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      mask: bool `[...]`, True where a token counts. What stands at other places, NaN too, has no influence.
      hard_fraction: the share of hard tokens, a Python number in [0, 1].
      easy_weight: lambda, in [0, 1]; may be a traced scalar.
      direction: "forward", or "reverse", which needs a top-k signal.
      normalizer: "group_mean" or "total_tokens", as in `atkd`.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.

    Returns:
      The loss, a scalar, and the diagnostics.

    Gradient:
      By the student's logits and easy_weight.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, a name is unknown, or the divergence cannot be had from
        this kind of signal.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
      >>> teacher = jnp.array([[2.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
      >>> targets, mask = jnp.array([0, 0, 2]), jnp.array([True, True, True])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2)
      >>> loss, _ = losses.sparse_atkd(student_logits=student, signal=signal, targets=targets, mask=mask)
      >>> print(f"{loss:.4f}")
      0.2044

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    function = "sparse_atkd"
    name = decoupled_name(function, direction, divergence)
    validation.choice(function, "normalizer", normalizer, NORMALIZERS)
    hard_fraction = validation.fraction(function, "hard_fraction", hard_fraction)
    easy_weight = validation.weight(function, "easy_weight", easy_weight, largest=1.0)
    logits, signal, targets = _checked(function, student_logits, signal, targets)
    mask = validation.boolean(function, "mask", mask, targets.shape)
    terms = _answer(function, name, logits, signal, targets, mask, beta, alpha).terms()
    return gated(terms, mask, hard_fraction, easy_weight, normalizer)


def sparse_decoupled_kd(
    *,
    student_logits: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    mask: jax.Array,
    target_weight: float = 1.0,
    diversity_weight: float = 1.0,
    direction: str = "forward",
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the Decoupled KD loss of a batch from a sparse signal, in nats, and the diagnostics of `decoupled_kd`.

    What it is of the loss from whole distributions is said at `sparse_atkd`.

    Args:
      student_logits: `[..., vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      mask: bool `[...]`, True where a token counts.
      target_weight: not negative; may be a traced scalar.
      diversity_weight: not negative; may be a traced scalar.
      direction: "forward", or "reverse", which needs a top-k signal.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.

    Returns:
      The loss, a scalar, and the diagnostics.

    Gradient:
      By the student's logits and the weights.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: as in `sparse_atkd`.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student, teacher = jnp.array([[1.0, 0.0, 0.5]]), jnp.array([[2.0, 1.0, 0.0]])
      >>> targets, mask = jnp.array([0]), jnp.array([True])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2)
      >>> loss, _ = losses.sparse_decoupled_kd(
      ...     student_logits=student, signal=signal, targets=targets, mask=mask, diversity_weight=2.0
      ... )
      >>> print(f"{loss:.4f}")
      0.5663
    """
    function = "sparse_decoupled_kd"
    name = decoupled_name(function, direction, divergence)
    weights = (
        validation.weight(function, "target_weight", target_weight),
        validation.weight(function, "diversity_weight", diversity_weight),
    )
    logits, signal, targets = _checked(function, student_logits, signal, targets)
    mask = validation.boolean(function, "mask", mask, targets.shape)
    terms = _answer(function, name, logits, signal, targets, mask, beta, alpha).terms()
    return weighted_mean(terms, mask, *weights)


class _Answer(NamedTuple):
    question: Question
    found: Found
    signal: SparseSignal

    def terms(self) -> DecoupledTerms:
        return with_stored(self.question.decoupled_terms(self.found), self.signal)


def with_stored(terms: DecoupledTerms, signal: SparseSignal) -> DecoupledTerms:
    """Returns the terms with the teacher's log p(target) and log UNC to the last digit of the signal."""
    dtype = terms.target_kd.dtype
    unknown = jnp.isnan(terms.target_kd)
    stored = (signal.target_log_prob.astype(dtype), signal.log_uncertainty.astype(dtype))
    log_prob, log_uncertainty = (jnp.where(unknown, jnp.nan, number) for number in stored)
    return terms._replace(teacher_target_log_prob=log_prob, teacher_log_uncertainty=log_uncertainty)


def _checked(function: str, student_logits, signal, targets) -> tuple[jax.Array, SparseSignal, jax.Array]:
    (logits,) = validation.floating(function, student_logits=student_logits)
    targets = validation.integers(function, "targets", targets, logits.shape[:-1])
    return validation.scaled(function, 1, logits)[0], checked(function, signal, targets.shape), targets


def _answer(
    function: str,
    divergence: str,
    logits: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    mask: jax.Array | None,
    beta: float,
    alpha: float,
    *,
    decoupled: bool = True,
    has_rest: bool = True,
    loss: str | None = None,
) -> _Answer:
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    question = Question(divergence, beta, alpha, decoupled)
    asks = asked(signal, question, logits.shape[-1], has_rest=has_rest, loss=loss)
    if mask is not None:
        logits, targets = jnp.where(mask[..., None], logits, 0), jnp.where(mask, targets, 0)
        signal = harmless(signal, mask)
    ids = asks.listed_ids(signal, targets)
    return _Answer(question, asks.found(signal, ids, student_of_logits(asks, logits, targets, ids)), signal)
