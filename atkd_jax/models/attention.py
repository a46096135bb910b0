"""Causal attention in which several query heads share a key-value head (Ainslie et al., 2023, arXiv 2305.13245)."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.layer_kinds import UNBOUNDED, layer_kinds
from atkd_jax.models.linear import Linear
from atkd_jax.models.norms import make_norm
from atkd_jax.models.remat import GATHERED
from atkd_jax.models.rotary import rotate
from atkd_jax.models.sequence_attention import WHOLE_ROW, Stripe, attention_on_mesh
from atkd_jax.models.splash_attention import fits_blocks, splash_attention
from atkd_jax.sharding import SEQUENCE_AXIS

AttentionKernel = Literal["auto", "xla", "splash"]

# Far below every score and still finite, so that a row with nothing to attend to stays free of NaN.
MASKED_SCORE = -1e30


# A long row's queries are worked through in at most so many parts of at least so many tokens.
_MOST_PARTS = 8
_SHORTEST_PART = 128
# And in slices of at most so many scores a head, which a loop takes one by one.
_MOST_SCORES = 2**22


class Scores(NamedTuple):
    """How scores come from products of queries and keys.

    Attributes:
        scale: multiplies them; head_dim ** -0.5 if not given.
        softcap: c, where scores s then become c tanh(s / c).
    """

    scale: float | None = None
    softcap: float | None = None


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | jax.Array | None = None,
    scores: Scores = Scores(),  # noqa: B008 (it cannot change)
    stripe: Stripe = WHOLE_ROW,
) -> jax.Array:
    """Return what each token gathers from itself and the tokens before it in its own segment.

    The queries go in a few parts, each of which meets only the keys up to its own end: of the scores that the mask
    would discard, nearly half of all in a long row, most are never computed. The backward pass computes the rest anew,
    so that no [T, T] array is kept.

    Args:
        query: [B, T / stripe.count, heads, head_dim], of every token or of a stripe of them.
        key: [B, kv_heads, T, head_dim], with heads a multiple of kv_heads.
        value: like key.
        segment_ids: int [B, T].
        window: see `attention_mask`.
        scores: see `grouped_query_attention`.
        stripe: which tokens the queries are of.

    Returns:
        Like query, in the value's dtype.
    """
    length = query.shape[1]
    part = max(_SHORTEST_PART, -(-length // _MOST_PARTS))
    attend = jax.checkpoint(partial(_attend_up_to, scores=scores), prevent_cse=False, static_argnums=(6, 7, 8))
    parts = [
        attend(query, key, value, segment_ids, window, stripe.first, stripe.count, start, min(start + part, length))
        for start in range(0, length, part)
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _attend_up_to(query, key, value, segment_ids, window, first, count: int, start: int, end: int, *, scores: Scores):
    """Do the queries from `start` to `end`, a slice of them at a time where their scores would be many."""
    keys_end = end * count
    key, value, key_segments = key[:, :, :keys_end], value[:, :, :keys_end], segment_ids[:, :keys_end]

    def attend(query: jax.Array, slots: jax.Array) -> jax.Array:
        mask = attention_mask(
            query_segments=jnp.take(segment_ids, slots, axis=1),
            key_segments=key_segments,
            query_slots=slots,
            key_slots=jnp.arange(keys_end),
            window=window,
        )
        return grouped_query_attention(query, key, value, mask, scores=scores)

    query, slots = query[:, start:end], first + count * jnp.arange(start, end)
    slices = 1
    while (end - start) * keys_end > _MOST_SCORES * slices and (end - start) % (2 * slices) == 0:
        slices *= 2
    if slices == 1:
        return attend(query, slots)
    query = query.reshape(query.shape[0], slices, -1, *query.shape[2:]).swapaxes(0, 1)
    found = jax.lax.map(jax.checkpoint(lambda part: attend(part[0], part[1])), (query, slots.reshape(slices, -1)))
    return found.swapaxes(0, 1).reshape(found.shape[1], -1, *found.shape[3:])


def attention_mask(
    *,
    query_segments: jax.Array,
    key_segments: jax.Array,
    query_slots: jax.Array,
    key_slots: jax.Array,
    window: int | jax.Array | None = None,
) -> jax.Array:
    """Return who may look at whom: bool [B, T, S], true within a segment and not ahead.

    Args:
        query_segments: int [B, T].
        key_segments: int [B, S].
        query_slots: int [T], the queries' places in the row.
        key_slots: int [S].
        window: how many slots a query looks back at, its own included; all of them if None.
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    distance = query_slots[:, None] - key_slots[None, :]
    seen = distance >= 0
    return same & (seen if window is None else seen & (distance < window))[None]


def grouped_query_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scores: Scores = Scores(),  # noqa: B008 (it cannot change)
) -> jax.Array:
    """Return softmax(query key^T / sqrt(head_dim)) value, each key-value head serving a group of query heads.

    The scores and the softmax are float32; no head is repeated in memory.

    Args:
        query: [B, T, heads, head_dim].
        key: [B, kv_heads, S, head_dim], with heads a multiple of kv_heads.
        value: like key.
        mask: bool [B, T, S], true where a query may look at a key.
        scores: another scale, and a soft cap.

    Returns:
        [B, T, heads, head_dim] in the value's dtype.
    """
    B, T, H, D = query.shape
    kv_heads, S = key.shape[1:3]
    group = H // kv_heads
    # Both products are batched matrix products as they stand, so that only heads are transposed, never scores.
    query = query.reshape(B, T, kv_heads, group, D).transpose(0, 2, 3, 1, 4).reshape(B, kv_heads, group * T, D)
    batch = ((0, 1), (0, 1))
    products = jax.lax.dot_general(query, key, (((3,), (3,)), batch), preferred_element_type=jnp.float32)
    products = products.reshape(B, kv_heads, group, T, S) * (D**-0.5 if scores.scale is None else scores.scale)
    if scores.softcap is not None:
        products = scores.softcap * jnp.tanh(products / scores.softcap)
    probs = (
        jax.nn.softmax(jnp.where(mask[:, None, None], products, MASKED_SCORE), axis=-1)
        .astype(value.dtype)
        .reshape(B, kv_heads, group * T, S)
    )
    gathered = jax.lax.dot_general(probs, value, (((3,), (2,)), batch)).reshape(B, kv_heads, group, T, D)
    return gathered.transpose(0, 3, 1, 2, 4).reshape(B, T, H, D)


class Attention(nnx.Module):
    """The projections of self-attention; what is between them is the caller's, for a cache."""

    kernel: AttentionKernel = "auto"
    """Who does `causal`: XLA, splash kernels, or by "auto" these on TPUs, where rows can be cut into their blocks.

    Without a mesh, kernels are taken on a TPU of a single device alone.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, stddev: float, output_stddev: float, **kinds):
        heads, kv_heads = (config.num_heads, config.head_dim), (config.num_kv_heads, config.head_dim)
        inputs = {"rngs": rngs, "stddev": stddev, "bias": config.qkv_bias, **kinds}
        self.query = Linear((config.width,), heads, **inputs)
        self.key = Linear((config.width,), kv_heads, **inputs)
        self.value = Linear((config.width,), kv_heads, **inputs)
        self.output = Linear(heads, (config.width,), rngs=rngs, stddev=output_stddev, bias=config.output_bias, **kinds)
        self.qk_norm = config.qk_norm
        if config.qk_norm != "none":
            widths = [1, 1] if config.qk_norm == "head" else [config.num_heads, config.num_kv_heads]
            self.query_norm, self.key_norm = (
                make_norm(config.norm, width * config.head_dim, eps=config.norm_eps, **kinds) for width in widths
            )
        scale = None if config.query_scalar is None else config.query_scalar**-0.5
        self.scores = Scores(scale, config.attention_softcap)
        windows = {int(kind.window) for kind in layer_kinds(config).each if kind.window is not None}
        self.windows = tuple(sorted(windows))

    def queries_keys_values(
        self, x: jax.Array, angles: tuple[jax.Array, jax.Array] | None, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads of `x`, queries and keys turned by their positions where there are angles.

        `x` is [B, T, width] or [B T, width], and `shape` is (B, T). Queries are [B, T, heads, head_dim]; keys and
        values [B, kv_heads, T, head_dim], as a cache holds them.
        """
        heads = self.query(x), self.key(x), self.value(x)
        query, key, value = (each.reshape(*shape, *each.shape[-2:]) for each in heads)
        if self.qk_norm == "head":
            query, key = self.query_norm(query), self.key_norm(key)
        elif self.qk_norm == "all_heads":
            query, key = _normalised_together(self.query_norm, query), _normalised_together(self.key_norm, key)
        if angles is not None:
            query, key = rotate(query, *angles), rotate(key, *angles)
        return query, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)

    def causal(
        self, query, key, value, segment_ids: jax.Array, window: int | jax.Array | None, mesh: Mesh | None = None
    ) -> jax.Array:
        """Return `causal_attention` by this model's rule for scores, on a mesh where the heads and tokens lie.

        For the backward pass its result is named `GATHERED`, or what a kernel needs in its place.

        Raises:
            InputError: where splash kernels are asked for on a mesh that has no TPUs, or for rows that cannot be cut
                into their blocks.
        """
        takes_kernel = self._takes_kernel(query.shape[1], mesh)
        attend = self._by_kernel if takes_kernel else partial(causal_attention, scores=self.scores)
        if mesh is None or mesh.size == 1:
            gathered = attend(query, key, value, segment_ids, window=window)
        else:
            gathered = attention_on_mesh(attend, mesh, query, key, value, segment_ids, window)
        return gathered if takes_kernel else checkpoint_name(gathered, GATHERED)

    def _takes_kernel(self, length: int, mesh: Mesh | None) -> bool:
        if mesh is None and jax.device_count() > 1:
            # Arrays that the compiler spreads over devices by itself: it cannot take a kernel apart.
            return False
        parts = 1 if mesh is None else mesh.shape[SEQUENCE_AXIS]
        can = _platform(mesh) == "tpu" and fits_blocks(length, parts)
        if self.kernel == "splash" and mesh is not None and not can:
            raise InputError(
                "training.attention=splash needs TPUs, and rows whose tokens are a multiple of 128 on each of the "
                f"mesh.sequence devices that share them, got {length} tokens, mesh.sequence={parts} and the platform "
                f"{_platform(mesh)!r}; leave training.attention out, or change data.sequence_length."
            )
        return can and self.kernel != "xla"

    def _by_kernel(self, query, key, value, segment_ids, *, window, stripe: Stripe = WHOLE_ROW) -> jax.Array:
        attend = partial(splash_attention, scale=self.scores.scale, softcap=self.scores.softcap, stripe=stripe)
        if window is None or isinstance(window, int):
            return attend(query, key, value, segment_ids, window=window)
        # The layers of a scan share one program, and a kernel's blocks are cut by a window that is known.
        each = [partial(attend, window=None if known == UNBOUNDED else known) for known in self.windows]
        return jax.lax.switch(jnp.searchsorted(jnp.asarray(self.windows), window), each, query, key, value, segment_ids)

    def masked(self, query, key, value, mask: jax.Array) -> jax.Array:
        """Return `grouped_query_attention` by this model's rule for scores."""
        return grouped_query_attention(query, key, value, mask, scores=self.scores)


def _platform(mesh: Mesh | None) -> str:
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def _normalised_together(norm, heads: jax.Array) -> jax.Array:
    return norm(heads.reshape(*heads.shape[:2], -1)).reshape(heads.shape)
