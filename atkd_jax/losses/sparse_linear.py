"""Losses from a sparse teacher signal and the student's hidden states and head, without `[tokens, vocab]`.

The results are those of `sparse_divergence` for logits = hidden @ head, to rounding. Only the student goes through its
head. What `linear` says of memory and of tokens that do not count holds here.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.decoupling import DecoupledTerms, decoupled_name
from atkd_jax.losses.gate import NORMALIZERS, atkd_token_weights, hard_token_mask, hard_token_threshold
from atkd_jax.losses.linear_divergence import DIVERGENCES, is_decoupled
from atkd_jax.losses.linear_inputs import Cut
from atkd_jax.losses.sparse import SparseSignal
from atkd_jax.losses.sparse_inputs import prepare_sparse
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.varying import gathered, own_part, same_everywhere
from atkd_jax.losses.vocabulary_blocks import Model
from atkd_jax.losses.whole_batch import atkd_diagnostics


def sparse_linear_weighted_sum(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    weights: Mapping[str, jax.Array],
    mask: jax.Array | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    student_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    keep_logits: bool | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum over tokens and terms of weight * term, and the terms, as `linear_weighted_sum` does.

    Decoupled KD and uncertainty-weighted KL are such sums. What each term is of that from whole distributions is said
    at `sparse_divergence`.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      weights: `[...]` each, by the name of a term: "divergence", or in its place "target_kd" and "diversity_kd"; and
        "cross_entropy". A weight of 0 drops a term even where it is inf.
      mask: bool `[...]`, True where a token counts; None counts all.
      divergence: the name of the per-token function, as in `linear_divergence`.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      student_softcap: c of logits = c tanh(logits / c), or None.
      vocab_size: the head is read up to this column; None reads it whole.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: whether a chunk's logits are kept until its gradient is formed, see `linear_atkd`; None chooses.
      vocab_axis: the mapped axis over which the head's columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split; the sum is over all of them, the same on every device.

    Returns:
      The sum, a float32 scalar, and the terms `[...]` by name, cross-entropy among them, 0 where a token does not
      count.

    Gradient:
      Of the sum, by student_hidden, student_head, student_bias and the weights, of first order and in reverse mode.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, a name is unknown, or the divergence cannot be had from
        this kind of signal.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 2)), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])}
      >>> teacher, targets = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2)
      >>> weights = {"target_kd": jnp.ones(1), "diversity_kd": jnp.full(1, 2.0)}
      >>> loss, _ = losses.sparse_linear_weighted_sum(**student, signal=signal, targets=targets, weights=weights)
      >>> print(f"{loss:.4f}")
      0.5663
    """
    function = "sparse_linear_weighted_sum"
    validation.choice(function, "divergence", divergence, pointwise.DIVERGENCES)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    names = set(weights)
    decoupled = is_decoupled(function, weights)
    question = Question() if names == {"cross_entropy"} else Question(divergence, beta, alpha, decoupled)
    cut = Cut(vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, summed=True)
    model = Model(student_hidden, student_head, student_bias)
    has_rest = bool(names & {"divergence", "diversity_kd"})
    ready = prepare_sparse(function, question, model, student_softcap, signal, targets, mask, cut, has_rest)
    for name, weight in weights.items():
        validation.weights(function, name, weight, ready.inputs.mask.shape)
    return ready.weighted(weights)


def sparse_linear_decoupled_terms(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    mask: jax.Array | None = None,
    direction: str = "forward",
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
    student_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> DecoupledTerms:
    """Returns the terms of `sparse_decoupled_divergence` for logits = hidden @ head, for every token.

    The primitive for gates, weightings and means that the student decides, which are ordinary JAX outside of it.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      mask: bool `[...]`, True where a token counts; None counts all. The terms at other places have no meaning.
      direction: "forward", or "reverse", which needs a top-k signal.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      student_softcap: c of logits = c tanh(logits / c), or None.
      vocab_size: the head is read up to this column; None reads it whole.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      vocab_axis: the mapped axis over which the head's columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split, if any.

    Returns:
      DecoupledTerms, float32 `[...]` each.

    Gradient:
      By student_hidden, student_head and student_bias, of first order and in reverse mode.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: as in `sparse_linear_weighted_sum`.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 2)), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])}
      >>> teacher, targets = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2)
      >>> terms = losses.sparse_linear_decoupled_terms(**student, signal=signal, targets=targets)
      >>> print(f"{terms.target_kd[0]:.4f} {terms.diversity_kd[0]:.4f}")
      0.0514 0.2574
    """
    function = "sparse_linear_decoupled_terms"
    question = _question(function, direction, divergence, beta, alpha)
    cut = Cut(vocab_size, block_words, chunk_tokens, None, vocab_axis, token_axes)
    model = Model(student_hidden, student_head, student_bias)
    ready = prepare_sparse(function, question, model, student_softcap, signal, targets, mask, cut)
    return ready.decoupled(ready.found())


def sparse_linear_divergence(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    signal: SparseSignal,
    targets: jax.Array,
    mask: jax.Array,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    student_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    vocab_size: int | None = None,
    per_token: bool = False,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    keep_logits: bool | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns a divergence's mean over the counted tokens from a sparse signal, as `linear_divergence` does.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      mask: bool `[...]`, True where a token counts.
      divergence: the name of the per-token function, as in `linear_divergence`.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      student_softcap: c of logits = c tanh(logits / c), or None.
      vocab_size: the head is read up to this column; None reads it whole.
      per_token: return every token's divergence, `[...]`, 0 where it does not count, in place of their mean.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: whether a chunk's logits are kept until its gradient is formed, see `linear_atkd`; None chooses.
      vocab_axis: the mapped axis over which the head's columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split; the mean is over all of them, the same on every device.

    Returns:
      The mean, a float32 scalar (or `[...]`), and a dict with `counted_tokens`. The mean over no token is 0.

    Gradient:
      By student_hidden, student_head and student_bias, of first order and in reverse mode.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: as in `sparse_linear_weighted_sum`.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 1)), "student_head": jnp.log(jnp.array([[0.5, 0.5]]))}
      >>> targets, mask = jnp.array([0]), jnp.array([True])
      >>> signal = losses.top_k_signal(teacher_logits=jnp.log(jnp.array([[0.75, 0.25]])), targets=targets, k=1)
      >>> value, _ = losses.sparse_linear_divergence(**student, signal=signal, targets=targets, mask=mask)
      >>> print(f"{value:.4f}")
      0.1308
    """
    function = "sparse_linear_divergence"
    validation.choice(function, "divergence", divergence, DIVERGENCES)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    term = "cross_entropy" if divergence == "cross_entropy" else "divergence"
    question = Question() if term == "cross_entropy" else Question(divergence, beta, alpha)
    cut = Cut(vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, summed=not per_token)
    model = Model(student_hidden, student_head, student_bias)
    ready = prepare_sparse(function, question, model, student_softcap, signal, targets, mask, cut)
    counted_tokens = jnp.sum(ready.inputs.mask).astype(jnp.float32)
    if token_axes:
        counted_tokens = jax.lax.psum(counted_tokens, token_axes)
    counted = {"counted_tokens": counted_tokens}
    if per_token:
        return jnp.where(ready.inputs.mask, question.terms(ready.found())[term], 0), counted
    share = ready.inputs.mask.astype(jnp.float32) / jnp.maximum(counted_tokens, 1)
    return ready.weighted({term: share})[0], counted


def sparse_linear_atkd(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
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
    student_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    keep_logits: bool | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the ATKD loss of a batch from a sparse signal, and its diagnostics, for logits = hidden @ head.

    The gate needs no pass: the signal has log p(target). See `sparse_atkd` for what the loss is.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      signal: of the teacher, with the same positions.
      targets: `[...]` of integers, the tokens for which the signal was built.
      mask: bool `[...]`, True where a token counts.
      hard_fraction: the share of hard tokens, a Python number in [0, 1].
      easy_weight: lambda, in [0, 1]; may be a traced scalar.
      direction: "forward", or "reverse", which needs a top-k signal.
      normalizer: "group_mean" or "total_tokens".
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      student_softcap: c of logits = c tanh(logits / c), or None.
      vocab_size: the head is read up to this column; None reads it whole.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: whether a chunk's logits are kept until its gradient is formed, see `linear_atkd`; None chooses.
      vocab_axis: the mapped axis over which the head's columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split. The gate and the means are over all of them.

    Returns:
      The loss, a float32 scalar, and the diagnostics of `atkd`.

    Gradient:
      By student_hidden, student_head, student_bias and easy_weight, of first order and in reverse mode.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: as in `sparse_linear_weighted_sum`, or the normalizer is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.eye(3), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0] * 3, [0.0] * 3])}
      >>> teacher = jnp.array([[2.0, 1, 0], [3.0, 1, 0], [0.0, 1, 0]])
      >>> targets, mask = jnp.array([0, 0, 2]), jnp.array([True, True, True])
      >>> signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2)
      >>> loss, _ = losses.sparse_linear_atkd(**student, signal=signal, targets=targets, mask=mask)
      >>> print(f"{loss:.4f}")
      0.2044
    """
    function = "sparse_linear_atkd"
    question = _question(function, direction, divergence, beta, alpha)
    validation.choice(function, "normalizer", normalizer, NORMALIZERS)
    hard_fraction = validation.fraction(function, "hard_fraction", hard_fraction)
    easy_weight = validation.weight(function, "easy_weight", easy_weight, largest=1.0)
    cut = Cut(vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, summed=True)
    model = Model(student_hidden, student_head, student_bias)
    ready = prepare_sparse(function, question, model, student_softcap, signal, targets, mask, cut)
    own_mask = ready.inputs.mask
    log_probs, mask = gathered((ready.shaped_signal().target_log_prob, own_mask), token_axes)
    hard = hard_token_mask(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    weights = atkd_token_weights(hard=hard, mask=mask, easy_weight=easy_weight, normalizer=normalizer)
    own = own_part(weights, own_mask.shape, token_axes)
    loss, found = ready.total({"target_kd": own[0], "diversity_kd": own[1]})
    terms = gathered(jax.lax.stop_gradient(ready.decoupled(found)), token_axes)
    diagnostics = atkd_diagnostics(terms=terms, hard=hard, mask=mask)
    threshold = hard_token_threshold(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    return loss, same_everywhere(diagnostics | {"uncertainty_threshold": threshold}, token_axes)


def _question(function: str, direction: str, divergence: str | None, beta, alpha) -> Question:
    name = decoupled_name(function, direction, divergence)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    return Question(name, beta, alpha, decoupled=True)
