"""Divergences and weighted sums of terms from final hidden states and head matrices, without `[tokens, vocab]`.

The results are those of the functions of logits, to rounding. What `linear` says of memory and of tokens that do not
count holds here.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.blocked import blocked, blocked_sum
from atkd_jax.losses.linear_inputs import Cut, Inputs, prepare
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.vocabulary_blocks import Model

DIVERGENCES = (*pointwise.DIVERGENCES, "cross_entropy")
_PARTS = {"target_kd", "diversity_kd"}


def linear_divergence(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array | None = None,
    teacher_head: jax.Array | None = None,
    targets: jax.Array | None = None,
    mask: jax.Array,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: float = 1.0,
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    per_token: bool = False,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    keep_logits: bool | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
    implementation: str = "xla",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns a divergence's mean over the counted tokens, in its own unit, for logits = hidden @ head.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      teacher_hidden: `[..., teacher_width]`; not needed for cross-entropy.
      teacher_head: `[teacher_width, vocab]`; not needed for cross-entropy.
      targets: `[...]` of integers; needed for cross-entropy alone.
      mask: bool `[...]`, True where a token counts.
      divergence: the name of the per-token function: "forward_kl", "reverse_kl", "generalized_jsd", "total_variation",
        "skewed_forward_kl", "skewed_reverse_kl" or "cross_entropy".
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      temperature: divides both models' logits, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      per_token: return every token's divergence, `[...]`, 0 where it does not count, in place of their mean.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: whether a chunk's logits are kept until its gradient is formed, see `linear_atkd`; None chooses.
      vocab_axis: the mapped axis over which the heads' columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split; the mean is over all of them, the same on every device.
      implementation: "xla" or "pallas", as in `linear_decoupled_terms`.

    Returns:
      The mean, a float32 scalar (or `[...]`), and a dict with `counted_tokens`. The mean over no token is 0.

    Gradient:
      By student_hidden, student_head and student_bias, of first order and in reverse mode. The teacher is constant.

    Raises:
      TypeError: an array has a wrong type or is missing.
      ValueError: shapes do not fit, a number is out of range, or the divergence is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 1)), "student_head": jnp.log(jnp.array([[0.5, 0.5]]))}
      >>> teacher = {"teacher_hidden": jnp.ones((1, 1)), "teacher_head": jnp.log(jnp.array([[0.75, 0.25]]))}
      >>> mask = jnp.array([True])
      >>> value, _ = losses.linear_divergence(**student, **teacher, mask=mask, divergence="generalized_jsd")
      >>> print(f"{value:.4f}")
      0.0338
    """
    function = "linear_divergence"
    validation.choice(function, "divergence", divergence, DIVERGENCES)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    student = Model(student_hidden, student_head, student_bias)
    if divergence == "cross_entropy":
        question, term, teacher = Question(), "cross_entropy", None
        targets = validation.needed(function, divergence, "targets", targets)
    else:
        question, term = Question(divergence, beta, alpha, has_targets=False), "divergence"
        teacher = _teacher(function, divergence, teacher_hidden, teacher_head, teacher_bias)
        targets = None
    cuts = vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, implementation
    cut = Cut(*cuts, summed=not per_token)
    softcaps = student_softcap, teacher_softcap
    inputs = prepare(function, question, student, teacher, softcaps, targets, mask, temperature, cut)
    counted_tokens = jnp.sum(inputs.mask).astype(jnp.float32)
    if token_axes:
        counted_tokens = jax.lax.psum(counted_tokens, token_axes)
    counted = {"counted_tokens": counted_tokens}
    if per_token:
        found = blocked(inputs.plan, question, inputs.models, inputs.targets, inputs.counted)
        values = question.terms(inputs.known(inputs.shaped(found)))[term]
        return jnp.where(inputs.mask, values, 0), counted
    share = inputs.mask.astype(jnp.float32) / jnp.maximum(counted_tokens, 1)
    return _total(question, inputs, {term: share})[0], counted


def linear_target_log_prob(
    *,
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array | None = None,
    temperature: float = 1.0,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
) -> jax.Array:
    """Returns log p(target) of every token, in nats, as `target_log_prob` does, for logits = hidden @ head.

    It is what ATKD's gate needs of the teacher. A trainer asks it of all micro-batches first.

    Args:
      hidden: `[..., width]`, the last hidden states, after the final norm.
      head: `[width, vocab]`.
      targets: `[...]` of integers, token ids at the index of the hidden states that predict them.
      mask: bool `[...]`, True where a token counts; None counts all. At other places the result is 0.
      temperature: divides the logits, a Python number.
      bias: `[vocab]` that is added to the logits, or None.
      softcap: c of logits = c tanh(logits / c), or None.
      vocab_size: the head is read up to this column; None reads it whole.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      vocab_axis: the mapped axis over which the head's columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split, if any, so that their devices take turns together.

    Returns:
      float32 `[...]`, never positive; NaN where the target is no id of the vocabulary.

    Gradient:
      By hidden, head and bias, of first order and in reverse mode.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, or a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> head = jnp.log(jnp.array([[0.75, 0.25]]))
      >>> log_prob = losses.linear_target_log_prob(hidden=jnp.ones((1, 1)), head=head, targets=jnp.array([1]))
      >>> print(f"{jnp.exp(log_prob[0]):.2f}")
      0.25
    """
    function = "linear_target_log_prob"
    cut = Cut(vocab_size, block_words, chunk_tokens, None, vocab_axis, token_axes)
    inputs = prepare(
        function, Question(), Model(hidden, head, bias), None, (softcap, None), targets, mask, temperature, cut
    )
    found = blocked(inputs.plan, Question(), inputs.models, inputs.targets, inputs.counted)
    log_probs = jax.nn.log_sigmoid(inputs.known(inputs.shaped(found.student_margin)))
    return jnp.where(inputs.mask, log_probs, 0)


def linear_weighted_sum(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array | None = None,
    teacher_head: jax.Array | None = None,
    targets: jax.Array,
    weights: Mapping[str, jax.Array],
    mask: jax.Array | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: float = 1.0,
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    keep_logits: bool | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
    implementation: str = "xla",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum over tokens and terms of weight * term, for weights that are known beforehand, and the terms.

    The gradient is formed going forward: what is not known before the student runs belongs outside of
    `linear_decoupled_terms` instead. Sums of parts of a batch add up to that of the batch.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      teacher_hidden: `[..., teacher_width]`; not needed where the only weight is on cross-entropy.
      teacher_head: `[teacher_width, vocab]`; likewise.
      targets: `[...]` of integers, token ids at the index of the hidden states that predict them.
      weights: `[...]` each, by the name of a term: "divergence", or in its place "target_kd" and "diversity_kd", the
        two parts of the divergence (`decoupled_divergence`); and "cross_entropy", the student's -log q(target) at
        temperature 1. A weight of 0 drops a term even where it is inf.
      mask: bool `[...]`, True where a token counts; None counts all.
      divergence: the name of the per-token function, as in `linear_divergence`.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      temperature: divides both models' logits in the divergence, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: whether a chunk's logits are kept until its gradient is formed, see `linear_atkd`; None chooses.
      vocab_axis: the mapped axis over which the heads' columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split; the sum is over all of them, the same on every device.
      implementation: "xla" or "pallas", as in `linear_decoupled_terms`.

    Returns:
      The sum, a float32 scalar, and the terms `[...]` by name, cross-entropy among them, 0 where a token does not
      count.

    Gradient:
      Of the sum, by student_hidden, student_head, student_bias and the weights, of first order and in reverse mode. The
      teacher and the returned terms are constant.

    Raises:
      TypeError: an array has a wrong type or is missing.
      ValueError: shapes do not fit, a number is out of range, or a weight's or the divergence's name is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 2)), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])}
      >>> teacher = {"teacher_hidden": jnp.ones((1, 1)), "teacher_head": jnp.array([[2.0, 1.0, 0.0]])}
      >>> weights = {"target_kd": jnp.ones(1), "diversity_kd": jnp.full(1, 2.0)}
      >>> loss, terms = losses.linear_weighted_sum(**student, **teacher, targets=jnp.array([0]), weights=weights)
      >>> print(f"{loss:.4f} {terms['diversity_kd'][0]:.4f}")
      0.5663 0.2574
    """
    function = "linear_weighted_sum"
    validation.choice(function, "divergence", divergence, pointwise.DIVERGENCES)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    decoupled = is_decoupled(function, weights)
    student, teacher = Model(student_hidden, student_head, student_bias), None
    question = Question(plain=temperature != 1)
    if set(weights) != {"cross_entropy"}:
        teacher = _teacher(function, divergence, teacher_hidden, teacher_head, teacher_bias)
        question = Question(divergence, beta, alpha, decoupled, plain=temperature != 1)
    softcaps = student_softcap, teacher_softcap
    cuts = vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, implementation
    cut = Cut(*cuts, summed=True)
    inputs = prepare(function, question, student, teacher, softcaps, targets, mask, temperature, cut)
    for name, weight in weights.items():
        validation.weights(function, name, weight, inputs.mask.shape)
    return _total(question, inputs, weights)


def _total(
    question: Question, inputs: Inputs, weights: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum over all devices of the token axes, and the terms of this device's tokens."""
    asked = inputs.plan, question, inputs.models, inputs.targets, inputs.counted
    flat = inputs.flat_weights(dict(weights))
    if inputs.summed:
        total, found = blocked_sum(*asked, flat)
    else:
        found = blocked(*asked)
        total = question.weighted(found, flat)
    found = inputs.known(inputs.shaped(jax.lax.stop_gradient(found)))
    terms = {name: jnp.where(inputs.mask, term, 0) for name, term in question.terms(found).items()}
    axes = inputs.plan.token_axes
    return (jax.lax.psum(total, axes) if axes else total), terms


def is_decoupled(function: str, weights: Mapping[str, jax.Array]) -> bool:
    """Returns whether weights are on the two parts of a divergence and not on the whole.

    Raises:
      ValueError: a name is unknown, or both are weighted.
    """
    names = set(weights)
    unknown = names - _PARTS - {"divergence", "cross_entropy"}
    if unknown or not names:
        raise ValueError(
            f"{function}: weights must be on 'divergence', 'target_kd', 'diversity_kd' or 'cross_entropy', got "
            f"{sorted(names)}; rename them"
        )
    if "divergence" in names and names & _PARTS:
        raise ValueError(
            f"{function}: weights must be on the divergence or on its two parts, got {sorted(names)}; the divergence "
            "is made of the parts"
        )
    return bool(names & _PARTS)


def _teacher(function: str, divergence: str, hidden, head, bias) -> Model:
    hidden = validation.needed(function, divergence, "teacher_hidden", hidden)
    return Model(hidden, validation.needed(function, divergence, "teacher_head", head), bias)
