"""The jitted part of an evaluation: one batch in, one float32 number per counted token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax import losses
from atkd_jax.evaluation.counted import counted_chunks
from atkd_jax.models import Decoder
from atkd_jax.objectives import next_token_targets


class TokenMetrics(NamedTuple):
    """One model's numbers per counted token, `[at least counted_tokens]`; 0 beyond the counted ones.

    Attributes:
        cross_entropy: float32, -log p(target) in nats.
        forward_kl: float32, KL(teacher || model) in nats.
        reverse_kl: float32, KL(model || teacher) in nats.
        agreement: float32, 1 where the model's likeliest token is the teacher's.
        accuracy: float32, 1 where the model's likeliest token is the target.
        confidence: float32, the probability of the model's likeliest token.
    """

    cross_entropy: jax.Array
    forward_kl: jax.Array
    reverse_kl: jax.Array
    agreement: jax.Array
    accuracy: jax.Array
    confidence: jax.Array


MetricStep = Callable[[Any, Sequence[Any], dict[str, jax.Array]], tuple[tuple[TokenMetrics, ...], jax.Array]]


def make_metric_step(
    teacher: nnx.GraphDef[Decoder],
    students: Sequence[nnx.GraphDef[Decoder]],
    *,
    vocab_size: int,
    chunk_tokens: int,
    spread: Callable[[jax.Array], jax.Array] = lambda chunk: chunk,
) -> MetricStep:
    """Gives the pure function that measures the teacher and each student on one batch.

    The teacher's hidden states are computed once for all students. Only counted positions go through the heads,
    `chunk_tokens` at a time: what stands at the others reaches no number, and at most
    `[chunk_tokens, vocab_size]` logits per model exist at once.

    Args:
        teacher: The teacher's structure.
        students: The students' structures.
        vocab_size: Both heads are cut to so many columns.
        chunk_tokens: Positions per product with the heads.
        spread: Says where a chunk's `[chunk_tokens, width]` lies, so that devices share the product with the heads.

    Returns:
        `step(teacher_params, students_params, batch)`, which gives the metrics of the teacher and of each student, in
        order, and the number of counted tokens, int32. `batch` holds tokens, positions, segment_ids and loss_mask,
        `[rows, length]`; or, in place of loss_mask, targets and counts as `next_token_targets` gives them, where the
        model does not see the last target of a row.
    """

    def step(teacher_params, students_params, batch):
        params = [teacher_params, *students_params]
        models = [nnx.merge(graph, own) for graph, own in zip([teacher, *students], params, strict=True)]
        hidden = [_flat_hidden_states(model, batch) for model in models]
        targets, mask = _targets(batch)
        targets = targets.reshape(-1)
        chunks = counted_chunks(mask.reshape(-1), chunk_tokens)

        def measure_chunk(turn, metrics):
            picked, valid = chunks.chunk(turn)
            logits = [
                model.logits(spread(states[picked]))[:, :vocab_size].astype(jnp.float32)
                for model, states in zip(models, hidden, strict=True)
            ]
            found = tuple(_token_metrics(own, logits[0], targets[picked], valid) for own in logits)
            start = turn * chunks.chunk_tokens
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=0), metrics, found
            )

        blank = TokenMetrics(*[jnp.zeros(chunks.order.shape, jnp.float32)] * len(TokenMetrics._fields))
        metrics = jax.lax.fori_loop(0, chunks.turns, measure_chunk, (blank,) * len(models))
        return metrics, chunks.counted

    return step


def _targets(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    if "targets" in batch:
        return batch["targets"], batch["counts"]
    return next_token_targets(tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"])


def _flat_hidden_states(model: Decoder, batch: dict[str, jax.Array]) -> jax.Array:
    hidden = model.hidden_states(batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
    return hidden.reshape(-1, hidden.shape[-1])


def _token_metrics(logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array, valid: jax.Array) -> TokenMetrics:
    likeliest = logits.argmax(-1)
    values = TokenMetrics(
        cross_entropy=-losses.target_log_prob(logits=logits, targets=targets),
        forward_kl=losses.forward_kl(student_logits=logits, teacher_logits=teacher_logits),
        reverse_kl=losses.reverse_kl(student_logits=logits, teacher_logits=teacher_logits),
        agreement=(likeliest == teacher_logits.argmax(-1)).astype(jnp.float32),
        accuracy=(likeliest == targets).astype(jnp.float32),
        confidence=jnp.exp(losses.target_log_prob(logits=logits, targets=likeliest)),
    )
    return jax.tree.map(lambda value: jnp.where(valid, value, 0), values)
