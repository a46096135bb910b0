"""The loss from final hidden states and heads, on one device or many, without the logits of all tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from atkd_jax import losses
from atkd_jax.objectives.weighting import Objective, Weighting, weighted_sum
from atkd_jax.sharding import TOKENS, VOCAB_AXIS, even_columns, map_tokens

Metrics = dict[str, jax.Array]
_Arrays = dict[str, Any]


class Tokens(NamedTuple):
    """What is known of a micro-batch's tokens besides the student: arrays `[rows, ...]`.

    Attributes:
        teacher_hidden: `[..., teacher_width]`; None where `sparse` stands for it.
        targets: int32 `[...]`.
        mask: bool `[...]`.
        weighting: float32 `[...]` each; without scalars.
        sparse: a few words a token in place of the teacher's hidden states, at temperature 1.
    """

    teacher_hidden: jax.Array | None
    targets: jax.Array
    mask: jax.Array
    weighting: Weighting
    sparse: losses.TopKSignal | losses.RestSample | None = None


class Heads(NamedTuple):
    """How hidden states become logits in both models.

    Attributes:
        student: `[width, vocab]`; columns from `vocab_size` on are padding.
        teacher: `[teacher_width, vocab]`, likewise; None where its hidden states are not there.
        vocab_size: The tokenizer's number of ids.
        softcaps: The student's and the teacher's c of c tanh(logits / c), or None.
        teacher_vocab_size: That of the teacher's own tokenizer, where it has one.
    """

    student: jax.Array
    teacher: jax.Array | None
    vocab_size: int
    softcaps: tuple[float | None, float | None] = (None, None)
    teacher_vocab_size: int | None = None


def head_loss(
    objective: Objective,
    *,
    student_hidden: jax.Array,
    heads: Heads,
    tokens: Tokens,
    chunk_tokens: int,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Metrics]:
    """Returns a micro-batch's share of the loss and of the metrics.

    Shares of the parts of a batch add up to the whole batch's numbers. Only tokens that count go through the heads. The
    weights are known, so that the gradient is formed while the loss is.

    Args:
        objective: The divergence and how tokens are weighted.
        student_hidden: `[rows, ..., width]`, after the final norm; the type of the arithmetic.
        heads: Both heads.
        tokens: The rest.
        chunk_tokens: How many counted tokens go through the heads at once, on each device, which keeps both models'
            logits of them meanwhile.
        mesh: Rows and the heads' columns are split over its devices; None or a single device splits nothing.

    Gradient:
        By `student_hidden` and the student's head, of first order. The teacher gets none.
    """
    terms_of, by_token, by_word = _terms(objective, student_hidden, heads, tokens, chunk_tokens)
    if mesh is None or mesh.size == 1:
        loss, terms = terms_of(**by_token, **by_word)
    else:
        sizes = {"student_head": heads.vocab_size, "teacher_head": heads.teacher_vocab_size or heads.vocab_size}
        by_word = {name: even_columns(head, sizes[name], mesh) for name, head in by_word.items()}
        split = partial(terms_of, vocab_axis=VOCAB_AXIS, token_axes=TOKENS)
        loss, terms = map_tokens(lambda own, words: split(**own, **words), mesh, tokens=by_token, heads=by_word)
    metrics = {name: weighted_sum(metric, terms) for name, metric in tokens.weighting.metrics.items()}
    return loss, metrics


def _terms(
    objective: Objective, student_hidden: jax.Array, heads: Heads, tokens: Tokens, chunk_tokens: int
) -> tuple[Callable[..., Any], _Arrays, _Arrays]:
    """Returns the function that gives the loss and its terms, and its arrays by token and by word."""
    weights, divergence = tokens.weighting.loss, objective.divergence
    settings = {"student_softcap": heads.softcaps[0], "vocab_size": heads.vocab_size, "chunk_tokens": chunk_tokens}
    by_token: _Arrays = {
        "student_hidden": student_hidden,
        "targets": tokens.targets,
        "mask": tokens.mask,
        "weights": weights,
    }
    by_word: _Arrays = {"student_head": heads.student}
    of_kind = {"divergence": divergence.name, "beta": divergence.beta, "alpha": divergence.alpha, "keep_logits": True}
    if tokens.sparse is not None:
        by_token["signal"] = tokens.sparse
        return partial(losses.sparse_linear_weighted_sum, **settings, **of_kind), by_token, by_word
    if set(weights) != {"cross_entropy"}:
        by_token["teacher_hidden"], by_word["teacher_head"] = tokens.teacher_hidden, heads.teacher
    settings |= {"temperature": divergence.temperature, "teacher_softcap": heads.softcaps[1]}
    if objective.pairs_tokens:
        settings["teacher_vocab_size"] = heads.teacher_vocab_size or heads.vocab_size
        return partial(losses.linear_universal_logit_sum, **settings), by_token, by_word
    return partial(losses.linear_weighted_sum, **settings, **of_kind), by_token, by_word


def target_log_probs(
    *,
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    vocab_size: int,
    softcap: float | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns a model's log p(target) at temperature 1, float32 `[rows, ...]`, 0 where a token does not count.

    Args:
        hidden: `[rows, ..., width]`, after the final norm.
        head: `[width, vocab]`; columns from `vocab_size` on are padding.
        targets: int32 `[rows, ...]`.
        mask: bool `[rows, ...]`.
        vocab_size: The tokenizer's number of ids.
        softcap: c of c tanh(logits / c), or None.
        mesh: As in `head_loss`.
    """
    of = partial(losses.linear_target_log_prob, vocab_size=vocab_size, softcap=softcap)
    by_token: _Arrays = {"hidden": hidden, "targets": targets, "mask": mask}
    if mesh is None or mesh.size == 1:
        return of(**by_token, head=head)
    split = partial(of, vocab_axis=VOCAB_AXIS, token_axes=TOKENS)

    def own(tokens: _Arrays, head: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(()), split(**tokens, head=head)

    return map_tokens(own, mesh, tokens=by_token, heads=even_columns(head, vocab_size, mesh))[1]
