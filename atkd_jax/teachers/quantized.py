"""A teacher stored as integers, and what that does to what it says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.config import ObjectiveConfig
from atkd_jax.interop import Place
from atkd_jax.models import Bits, Decoder, quantize_in_place, weight_bytes
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective, next_token_targets


class Quantization(NamedTuple):
    """What was done to a teacher.

    Attributes:
        bits: "int8" or "int4", of the layers' kernels.
        float_bytes: what its weights took before.
        bytes: what they take now.
        forward_kl: KL(float teacher || stored teacher) in nats, the mean over the counted tokens of the batch.
        tokens: how many these are.
    """

    bits: str
    float_bytes: int
    bytes: int
    forward_kl: float
    tokens: int

    def sentence(self) -> str:
        """Returns the figures in words."""
        sizes = f"{self.bytes / 1e6:,.1f} MB in place of {self.float_bytes / 1e6:,.1f} MB"
        moved = f"KL(float || {self.bits}) is {self.forward_kl:.4f} nats per token on {self.tokens:,} tokens"
        return f"The teacher is stored in {self.bits}: {sizes}; {moved}."


def quantize_teacher(
    model: Decoder,
    bits: Bits,
    *,
    batch: Mapping[str, jax.Array],
    vocab_size: int,
    chunk_tokens: int = 512,
    place: Place | None = None,
    mesh: Mesh | None = None,
) -> Quantization:
    """Stores the model's matrices as integers, in place, and measures how far it has moved.

    The float weights go one after the other; beside the result, the head and the batch's final states stay in float
    until they have been compared.

    Args:
        model: The teacher, in float.
        bits: See `models.quantize_in_place`.
        batch: tokens, positions, segment_ids and loss_mask, `[rows, length]`.
        vocab_size: The tokenizer's number of ids.
        chunk_tokens: How many tokens go through both heads at once, on each device.
        place: Says where an array shall live.
        mesh: Where the rows lie; None or a single device splits nothing.

    Raises:
        InputError: if qwix is not installed.
    """
    objective = make_objective(ObjectiveConfig(name="forward_kl"))
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    weighting = objective.weighting(jnp.zeros(mask.shape), mask)._replace(scalars={})
    inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    float_bytes, float_head = weight_bytes(model), model.head_matrix()
    float_hidden = _hidden_states(*nnx.split(model), inputs, mesh)
    quantize_in_place(model, bits, place=place)
    graphdef, params = nnx.split(model)

    @jax.jit
    def divergence(params: nnx.State, hidden: jax.Array, float_head: jax.Array, tokens: Tokens) -> jax.Array:
        caps = (model.logit_softcap, model.logit_softcap)
        heads = Heads(nnx.merge(graphdef, params).head_matrix(), float_head, vocab_size, caps)
        chunks = {"chunk_tokens": chunk_tokens, "mesh": mesh}
        return head_loss(objective, student_hidden=hidden, heads=heads, tokens=tokens, **chunks)[0]

    hidden = _hidden_states(graphdef, params, inputs, mesh)
    moved = divergence(params, hidden, float_head, Tokens(float_hidden, targets, mask, weighting))
    return Quantization(bits, float_bytes, weight_bytes(model), float(moved), int(mask.sum()))


@partial(jax.jit, static_argnums=(0, 3))
def _hidden_states(
    graphdef: nnx.GraphDef[Decoder], params: nnx.State, inputs: dict[str, jax.Array], mesh: Mesh | None
) -> jax.Array:
    return nnx.merge(graphdef, params).hidden_states(**inputs, mesh=mesh)
