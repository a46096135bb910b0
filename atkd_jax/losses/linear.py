"""Losses from final hidden states and head matrices, without ever building the logits `[tokens, vocab]`.

They are the losses of the same name, to rounding. Memory beside the gradients themselves is a block of logits, whatever
the vocabulary and the number of tokens. Logits are formed once going forward and once again going backward.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise, validation
from atkd_jax.losses.blocked import blocked_divergence, blocked_margin, blocked_terms
from atkd_jax.losses.decoupling import DIRECTIONS, DecoupledTerms, terms_of_margins
from atkd_jax.losses.gate import NORMALIZERS, atkd_token_weights, hard_token_mask, hard_token_threshold
from atkd_jax.losses.vocabulary_blocks import Model, Plan, all_varying
from atkd_jax.losses.whole_batch import atkd_diagnostics, mean_of_group, weighted_terms

DIVERGENCES = (*pointwise.DIVERGENCES, "cross_entropy")


def linear_decoupled_terms(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    targets: jax.Array,
    mask: jax.Array | None = None,
    temperature: float = 1.0,
    direction: str = "forward",
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 4096,
    chunk_tokens: int = 1024,
    vocab_axis: str | None = None,
) -> DecoupledTerms:
    """Returns the terms of `decoupled_terms` for logits = hidden @ head, for every token.

    The primitive under `linear_atkd`: any gate, weighting or mean of its fields is ordinary JAX outside of it.

    Inside `shard_map`, `vocab_axis` names the mesh axis over which the heads' columns are split: each device passes its
    own columns, the tokens are the same on all of them, and so are the results. Logits stay where they are.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm. The products with the heads
        are taken in its type, with sums in float32.
      student_head: `[student_width, vocab]`.
      teacher_hidden: `[..., teacher_width]`.
      teacher_head: `[teacher_width, vocab]`.
      targets: `[...]` of integers, token ids at the index of the hidden states that predict them.
      mask: bool `[...]`, True where a token counts; None counts all. What stands at other places, NaN too, has no
        influence, and the terms there have no meaning.
      temperature: divides both models' logits, a Python number.
      direction: "forward" or "reverse", as in `decoupled_terms`.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      block_words: columns whose logits are in memory at a time. It changes speed and memory, not the result.
      chunk_tokens: tokens whose logits are in memory at a time, likewise.
      vocab_axis: a mapped axis, see above.

    Returns:
      DecoupledTerms, float32 `[...]` each.

    Gradient:
      By student_hidden, student_head and student_bias, in the closed form of `decoupled_terms`, of first order and in
      reverse mode. The teacher's arrays are constants: their gradient is 0.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.ones((1, 2)), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])}
      >>> teacher = {"teacher_hidden": jnp.ones((1, 1)), "teacher_head": jnp.array([[2.0, 1.0, 0.0]])}
      >>> terms = losses.linear_decoupled_terms(**student, **teacher, targets=jnp.array([0]))
      >>> print(f"{terms.target_kd[0]:.4f} {terms.diversity_kd[0]:.4f}")
      0.0514 0.2574

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    function = "linear_decoupled_terms"
    validation.choice(function, "direction", direction, DIRECTIONS)
    student = Model(student_hidden, student_head, student_bias)
    teacher = Model(teacher_hidden, teacher_head, teacher_bias)
    softcaps = student_softcap, teacher_softcap
    models, targets, mask = _arrays(function, student, teacher, targets, mask)
    plan = _plan(function, models, softcaps, temperature, vocab_size, block_words, chunk_tokens, vocab_axis)
    return _terms(plan, models, targets, mask, direction)


def linear_atkd(
    *,
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    hard_fraction: float = 0.5,
    easy_weight: float = 0.2,
    direction: str = "forward",
    normalizer: str = "group_mean",
    temperature: float = 1.0,
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    per_token: bool = False,
    block_words: int = 4096,
    chunk_tokens: int = 1024,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the ATKD loss of a batch, in nats, and its diagnostics, as `atkd` does, for logits = hidden @ head.

    Args:
      student_hidden: `[..., student_width]`, the last hidden states, after the final norm.
      student_head: `[student_width, vocab]`.
      teacher_hidden: `[..., teacher_width]`.
      teacher_head: `[teacher_width, vocab]`.
      targets: `[...]` of integers, token ids at the index of the hidden states that predict them.
      mask: bool `[...]`, True where a token counts.
      hard_fraction: the share of hard tokens, a Python number in [0, 1].
      easy_weight: lambda, in [0, 1]; may be a traced scalar.
      direction: "forward" or "reverse".
      normalizer: "group_mean" or "total_tokens".
      temperature: divides both models' logits, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      per_token: return every token's share of the loss, `[...]`, in place of their sum.
      block_words: columns whose logits are in memory at a time. It changes speed and memory, not the result.
      chunk_tokens: tokens whose logits are in memory at a time, likewise.

    Returns:
      The loss, a float32 scalar (or `[...]`), and the diagnostics of `atkd`.

    Gradient:
      By student_hidden, student_head and student_bias, of first order and in reverse mode. The teacher is constant.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, a number is out of range, or direction or normalizer is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> student = {"student_hidden": jnp.eye(3), "student_head": jnp.array([[1.0, 0.0, 0.5], [0.0] * 3, [0.0] * 3])}
      >>> teacher = {"teacher_hidden": jnp.eye(3), "teacher_head": jnp.array([[2.0, 1, 0], [3.0, 1, 0], [0.0, 1, 0]])}
      >>> targets, mask = jnp.array([0, 0, 2]), jnp.array([True, True, True])
      >>> loss, _ = losses.linear_atkd(**student, **teacher, targets=targets, mask=mask)
      >>> print(f"{loss:.4f}")
      0.2044

    Reference:
      Zhong et al., arXiv 2402.11890, section 3.
    """
    validation.choice("linear_atkd", "direction", direction, DIRECTIONS)
    validation.choice("linear_atkd", "normalizer", normalizer, NORMALIZERS)
    hard_fraction = validation.fraction("linear_atkd", "hard_fraction", hard_fraction)
    easy_weight = validation.weight("linear_atkd", "easy_weight", easy_weight, largest=1.0)
    student = Model(student_hidden, student_head, student_bias)
    teacher = Model(teacher_hidden, teacher_head, teacher_bias)
    softcaps = student_softcap, teacher_softcap
    models, targets, mask = _arrays("linear_atkd", student, teacher, targets, mask)
    plan = _plan("linear_atkd", models, softcaps, temperature, vocab_size, block_words, chunk_tokens, None)
    terms = _terms(plan, models, targets, mask, direction)
    log_probs = terms.teacher_target_log_prob
    hard = hard_token_mask(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    threshold = hard_token_threshold(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    weights = atkd_token_weights(hard=hard, mask=mask, easy_weight=easy_weight, normalizer=normalizer)
    loss = weighted_terms(terms, *weights)
    diagnostics = atkd_diagnostics(terms=terms, hard=hard, mask=mask) | {"uncertainty_threshold": threshold}
    return (loss if per_token else jnp.sum(loss)), diagnostics


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
    block_words: int = 4096,
    chunk_tokens: int = 1024,
    vocab_axis: str | None = None,
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
      block_words: columns whose logits are in memory at a time. It changes speed and memory, not the result.
      chunk_tokens: tokens whose logits are in memory at a time, likewise.
      vocab_axis: a mapped axis over which the vocabulary is split, as in `linear_decoupled_terms`.

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
    teacher = None
    if divergence != "cross_entropy":
        teacher_hidden = _needed(function, divergence, "teacher_hidden", teacher_hidden)
        teacher = Model(teacher_hidden, _needed(function, divergence, "teacher_head", teacher_head), teacher_bias)
    elif targets is None:
        _needed(function, divergence, "targets", targets)
    softcaps = student_softcap, teacher_softcap
    models, targets, mask = _arrays(function, student, teacher, targets, mask)
    plan = _plan(function, models, softcaps, temperature, vocab_size, block_words, chunk_tokens, vocab_axis)
    values = _divergence(plan, models, targets, divergence, beta, alpha).reshape(mask.shape)
    counted = {"counted_tokens": jnp.sum(mask).astype(jnp.float32)}
    return (jnp.where(mask, values, 0) if per_token else mean_of_group(values, mask)), counted


def _terms(plan: Plan, models: tuple[Model, ...], targets, mask: jax.Array, direction: str) -> DecoupledTerms:
    found: Any = blocked_terms(plan, direction == "reverse", *models, targets)
    student_margin, teacher_margin = (_known(plan, targets, margin) for margin in found[1:])
    terms = terms_of_margins(student_margin, teacher_margin, found[0], direction)
    return DecoupledTerms(*(term.reshape(mask.shape) for term in terms))


def _known(plan: Plan, targets: jax.Array, margin: jax.Array) -> jax.Array:
    """Returns the margins, NaN where the target is no word: no block has met it."""
    vocabulary = plan.vocab_size if plan.axis is None else plan.vocab_size * jax.lax.axis_size(plan.axis)
    return jnp.where((targets >= 0) & (targets < vocabulary), margin, jnp.nan)


def _divergence(plan: Plan, models, targets, divergence: str, beta: float, alpha: float) -> jax.Array:
    if divergence == "cross_entropy":
        return -jax.nn.log_sigmoid(_known(plan, targets, blocked_margin(plan, *models, targets)))
    direction = pointwise.kl_direction(divergence, beta=beta, alpha=alpha)
    if direction is not None:
        found: Any = blocked_terms(plan, direction == "reverse", *models, jnp.full_like(targets, -1))
        return found[0]
    return blocked_divergence(plan, pointwise.terms_of(divergence, beta=beta, alpha=alpha), *models)


def _needed(function: str, divergence: str, name: str, array: jax.Array | None) -> jax.Array:
    if array is None:
        raise TypeError(f"{function}: {divergence} needs {name}, got None; pass it")
    return array


def _arrays(
    function: str, student: Model, teacher: Model | None, targets, mask
) -> tuple[tuple[Model, ...], jax.Array, jax.Array]:
    """Returns the models, the targets `[tokens]` and the mask, checked; what does not count has been made harmless."""
    leading = jnp.shape(student.hidden)[:-1]
    models: list[Model] = []
    given: tuple[tuple[str, Model | None], ...] = (("student", student), ("teacher", teacher))
    for name, model in given:
        if model is not None:
            models.append(Model(*validation.model(function, name, model.hidden, model.head, model.bias, leading)))
    mask = jnp.ones(leading, bool) if mask is None else validation.boolean(function, "mask", mask, leading)
    if targets is None:
        targets = jnp.zeros(leading, jnp.int32)
    targets = validation.integers(function, "targets", targets, leading).astype(jnp.int32)
    targets = jnp.where(mask, targets, 0).reshape(-1)

    def flat(hidden: jax.Array) -> jax.Array:
        return jnp.where(mask[..., None], hidden, 0).reshape(-1, hidden.shape[-1])

    return all_varying(tuple(model._replace(hidden=flat(model.hidden)) for model in models)), targets, mask


def _plan(
    function: str, models: tuple[Model, ...], softcaps, temperature, vocab_size, block_words, chunk_tokens, vocab_axis
) -> Plan:
    columns = [model.head.shape[-1] for model in models]
    if vocab_size is None and len(set(columns)) > 1:
        raise ValueError(
            f"{function}: student_head and teacher_head must have the same number of columns, got {columns[0]} and "
            f"{columns[1]}; pass vocab_size, the tokenizer's size, if they are padded"
        )
    words = columns[0] if vocab_size is None else vocab_size
    for name, value, largest in (
        ("vocab_size", words, min(columns)),
        ("block_words", block_words, None),
        ("chunk_tokens", chunk_tokens, None),
    ):
        validation.count(function, name, value, largest)
    if not isinstance(temperature, Real):
        raise TypeError(f"{function}: temperature must be a Python number, got {type(temperature).__name__}; pass one")
    validation.scaled(function, temperature)
    caps = tuple(validation.softcap(function, cap) for cap in softcaps[: len(models)])
    return Plan(words, block_words, chunk_tokens, 1.0 / float(temperature), caps, vocab_axis)
