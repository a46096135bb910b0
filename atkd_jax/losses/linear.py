"""ATKD from final hidden states and head matrices, without ever building the logits `[tokens, vocab]`.

The results are those of `decoupled_divergence` and `atkd`, to rounding. Memory beside the gradients themselves is a
block of logits, or those of a chunk of tokens, whatever the vocabulary and the number of tokens. Tokens that do not
count cost next to nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation
from atkd_jax.losses.blocked import blocked, blocked_sum
from atkd_jax.losses.decoupling import DecoupledTerms, decoupled_name
from atkd_jax.losses.gate import NORMALIZERS, atkd_token_weights, hard_token_mask, hard_token_threshold
from atkd_jax.losses.linear_inputs import Cut, Inputs, prepare
from atkd_jax.losses.token_terms import Found, Question
from atkd_jax.losses.varying import gathered, own_part, same_everywhere
from atkd_jax.losses.vocabulary_blocks import Model
from atkd_jax.losses.whole_batch import atkd_diagnostics, weighted_terms


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
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
    student_bias: jax.Array | None = None,
    teacher_bias: jax.Array | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocab_size: int | None = None,
    block_words: int = 2048,
    chunk_tokens: int | None = None,
    vocab_axis: str | None = None,
    token_axes: tuple[str, ...] = (),
    implementation: str = "xla",
) -> DecoupledTerms:
    """Returns the terms of `decoupled_divergence` for logits = hidden @ head, for every token.

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
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      vocab_axis: a mapped axis, see above.
      token_axes: the mapped axes over which tokens are split, if any, so that their devices take turns together.
      implementation: "xla", or "pallas" for kernels that keep a tile's logits on the chip of a TPU: of the forward and
        reverse KL, without bias, softcap, mapped axes and `keep_logits`; `block_words` has no part in them.

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
    question = _question(function, direction, divergence, beta, alpha)
    inputs = prepare(
        function,
        question,
        Model(student_hidden, student_head, student_bias),
        Model(teacher_hidden, teacher_head, teacher_bias),
        (student_softcap, teacher_softcap),
        targets,
        mask,
        temperature,
        Cut(vocab_size, block_words, chunk_tokens, None, vocab_axis, token_axes, implementation),
    )
    return _terms(question, inputs)


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
    divergence: str | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
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
    """Returns the ATKD loss of a batch, in nats, and its diagnostics, as `atkd` does, for logits = hidden @ head.

    The gate's pass over the teacher comes first; after it all weights are known, and the gradient is formed while the
    loss is. Inside `shard_map`, with `vocab_axis` and `token_axes`, each device passes its own columns and tokens.

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
      temperature: divides both models' logits, a Python number; the gate reads UNC at temperature 1.
      divergence: a name as in `decoupled_divergence`, in place of the KL of that direction.
      beta: of generalized_jsd, a Python number.
      alpha: of the skewed KLs, a Python number.
      student_bias: `[vocab]` that is added to the student's logits, or None.
      teacher_bias: likewise for the teacher.
      student_softcap: c of logits = c tanh(logits / c), or None.
      teacher_softcap: likewise for the teacher.
      vocab_size: heads are read up to this column; None reads them whole. They may be padded to different widths.
      per_token: return every token's share of the loss, `[...]`, in place of their sum.
      block_words: columns that are worked on at a time. It changes speed and memory, not the result.
      chunk_tokens: counted tokens that are worked on at a time, likewise; None chooses.
      keep_logits: True keeps a chunk's logits until its gradient is formed, 8 chunk_tokens vocab bytes, which spares
        forming them again; False keeps none; None keeps what 0.2 GiB have room for. True has no part in `per_token`.
      vocab_axis: the mapped axis over which the heads' columns are split, as in `linear_decoupled_terms`.
      token_axes: the mapped axes over which tokens are split. The gate and the means are over all of them, and the loss
        and the diagnostics are those of the whole batch, the same on every device.
      implementation: "xla" or "pallas", as in `linear_decoupled_terms`.

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
    question = _question("linear_atkd", direction, divergence, beta, alpha)
    validation.choice("linear_atkd", "normalizer", normalizer, NORMALIZERS)
    hard_fraction = validation.fraction("linear_atkd", "hard_fraction", hard_fraction)
    easy_weight = validation.weight("linear_atkd", "easy_weight", easy_weight, largest=1.0)
    cuts = vocab_size, block_words, chunk_tokens, keep_logits, vocab_axis, token_axes, implementation
    cut = Cut(*cuts, summed=not per_token, gated=True)
    inputs = prepare(
        "linear_atkd",
        question,
        Model(student_hidden, student_head, student_bias),
        Model(teacher_hidden, teacher_head, teacher_bias),
        (student_softcap, teacher_softcap),
        targets,
        mask,
        temperature,
        cut,
    )
    return _gated(question, inputs, hard_fraction, easy_weight, normalizer, per_token)


def _gated(question: Question, inputs: Inputs, hard_fraction, easy_weight, normalizer: str, per_token: bool):
    """Returns ATKD and its diagnostics: the gate first, then the loss with weights that are known."""
    token_axes = inputs.plan.token_axes
    terms = None if inputs.summed else _terms(question, inputs)
    if terms is None or inputs.plan.inverse_temperature != 1:
        certainty = _certainty(inputs.teacher())
    else:
        certainty = terms.teacher_target_log_prob, terms.teacher_log_uncertainty
    certainty = jax.lax.stop_gradient(certainty)
    log_probs, mask = gathered((certainty[0], inputs.mask), token_axes)
    hard = hard_token_mask(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    weights = atkd_token_weights(hard=hard, mask=mask, easy_weight=easy_weight, normalizer=normalizer)
    weights = own_part(weights, inputs.mask.shape, token_axes)
    if terms is None:
        named = {"target_kd": weights[0], "diversity_kd": weights[1]}
        loss, found = blocked_sum(*_asked(question, inputs), inputs.flat_weights(named))
        terms = _decoupled(question, inputs, found)
    else:
        loss = weighted_terms(terms, *weights)
        loss = loss if per_token else jnp.sum(loss)
    if token_axes and not per_token:
        loss = jax.lax.psum(loss, token_axes)
    terms = terms._replace(teacher_target_log_prob=certainty[0], teacher_log_uncertainty=certainty[1])
    diagnostics = atkd_diagnostics(terms=gathered(jax.lax.stop_gradient(terms), token_axes), hard=hard, mask=mask)
    threshold = hard_token_threshold(target_log_probs=log_probs, mask=mask, hard_fraction=hard_fraction)
    return loss, same_everywhere(diagnostics | {"uncertainty_threshold": threshold}, token_axes)


def _question(function: str, direction: str, divergence: str | None, beta: float, alpha: float) -> Question:
    name = decoupled_name(function, direction, divergence)
    beta, alpha = validation.fraction(function, "beta", beta), validation.fraction(function, "alpha", alpha)
    return Question(name, beta, alpha, decoupled=True)


def _asked(question: Question, inputs: Inputs):
    return inputs.plan, question, inputs.models, inputs.targets, inputs.counted


def _terms(question: Question, inputs: Inputs) -> DecoupledTerms:
    return _decoupled(question, inputs, blocked(*_asked(question, inputs)))


def _decoupled(question: Question, inputs: Inputs, found: Found) -> DecoupledTerms:
    return question.decoupled_terms(inputs.known(inputs.shaped(found)))


def _certainty(teacher: Inputs) -> tuple[jax.Array, jax.Array]:
    """Returns the teacher's log p(target) and log UNC, `[...]`."""
    found = blocked(*_asked(Question(), teacher))
    margin = jax.lax.stop_gradient(teacher.known(teacher.shaped(found.student_margin)))
    return jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
