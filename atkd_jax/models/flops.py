"""How much arithmetic a model's matrix products are, counted from its shape alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.layer_kinds import layer_kinds


class ForwardFlops(NamedTuple):
    """Floating-point operations of a forward pass: 2 for each multiplication and addition of a matrix product.

    Attributes:
        layers: per token, all layers, with attention over half of the row: what the mask leaves of it.
        head: per token that goes through the head.
    """

    layers: float
    head: float


def forward_flops(config: DecoderConfig, *, length: int) -> ForwardFlops:
    """Return what a token costs in rows of `length` tokens that are one document each.

    Norms, activations, softmax, look-ups and what is computed anew for the backward pass are not counted.
    """
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    projections = config.width * (2 * heads + 2 * kv_heads)
    products = config.width * config.mlp_width * (3 if config.gated_mlp else 2)
    if config.num_experts:
        products = products * config.experts_per_token + config.width * config.num_experts
    # One product with the keys and one with the values.
    attention = sum(2 * heads * _mean_context(length, kind.window) for kind in layer_kinds(config).each)
    layers = config.num_layers * (projections + products) + attention
    if config.embed_width is not None:
        layers += 2 * config.width * config.embed_width
    return ForwardFlops(2.0 * layers, 2.0 * config.head_width * config.vocab_size)


def _mean_context(length: int, window: Any) -> float:
    """Return how many tokens a token sees on average, itself included, where a window may be None."""
    window = length if window is None else min(window, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def distillation_flops(
    *,
    student: DecoderConfig,
    teacher: DecoderConfig | None,
    length: int,
    tokens: float,
    counted_tokens: float,
    runs_teacher_layers: bool = True,
) -> float:
    """Return what a distillation step must compute: three times the student's forward pass and once the teacher's.

    The backward pass takes two products for each of the forward pass. Only counted tokens need the heads.

    Args:
        student: The student's shape.
        teacher: The teacher's shape; None where neither its layers nor its head take part.
        length: Tokens in a row.
        tokens: Tokens of the batch, without padding.
        counted_tokens: Those of them that the loss is on.
        runs_teacher_layers: False where its states are read, from a cache or an embedding, and its head alone is left.
    """
    costs = [(3, forward_flops(student, length=length))]
    if teacher is not None:
        whole = forward_flops(teacher, length=length)
        costs.append((1, whole if runs_teacher_layers else whole._replace(layers=0.0)))
    return sum(passes * (tokens * cost.layers + counted_tokens * cost.head) for passes, cost in costs)
