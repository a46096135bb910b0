"""Causal attention by jax's splash kernels: on a TPU no score leaves the chip, in either pass.

What the mask empties is left out block by block, and a row's segments are compared inside of the kernel. The scale is
multiplied into the queries, which rounds them once more where they are bfloat16; scores and softmax are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from atkd_jax.models.remat import GATHERED
from atkd_jax.models.sequence_attention import WHOLE_ROW, Stripe

# Tokens of a block of queries or keys, the first that divides a row; the last is a register's width.
_BLOCKS = (512, 256, 128)


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    stripe: Stripe = WHOLE_ROW,
    interpret: bool = False,
) -> jax.Array:
    """Return what `causal_attention` does, the rounding of products aside.

    Args:
        query: [B, T / stripe.count, heads, head_dim], of every token or of a stripe of them; see `fits_blocks`.
        key: [B, kv_heads, T, head_dim], with heads a multiple of kv_heads.
        value: like key.
        segment_ids: int [B, T].
        window: how many tokens a token sees, itself included; all of its segment's if None.
        scale: multiplies the scores; head_dim ** -0.5 if not given.
        softcap: c, where scores s then become c tanh(s / c).
        stripe: which tokens the queries are of.
        interpret: whether to work the kernels out without a TPU, slowly.

    Returns:
        Like query, in the value's dtype. The gradient goes to query, key and value.
    """
    B, T, H, D = query.shape
    kv_heads = key.shape[1]
    scaled = (query.astype(jnp.float32) * (D**-0.5 if scale is None else scale)).astype(query.dtype)
    scaled = scaled.reshape(B, T, kv_heads, H // kv_heads, D).transpose(0, 2, 3, 1, 4)
    slots = stripe.first + stripe.count * jnp.arange(T)
    kernel = _kernel(H // kv_heads, key.shape[2], slots, stripe.count, window, softcap, interpret)
    segments = splash.SegmentIds(q=jnp.take(segment_ids, slots, axis=1), kv=segment_ids)
    of_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    gathered = jax.vmap(of_heads)(scaled, key, value, segments)
    return gathered.transpose(0, 3, 1, 2, 4).reshape(B, T, H, D).astype(value.dtype)


def fits_blocks(length: int, parts: int = 1) -> bool:
    """Whether rows of so many tokens, whose queries are dealt out to so many devices, can be cut into blocks."""
    return length % parts == 0 and _block(length) > 0 and _block(length // parts) > 0


def _block(length: int) -> int:
    """Return 0 where there is no block."""
    return next((block for block in _BLOCKS if length % block == 0), 0)


def _kernel(
    group: int, length: int, slots: jax.Array, count: int, window: int | None, softcap: float | None, interpret: bool
) -> Callable[..., Any]:
    """Return the kernel of a key-value head and its group of query heads, for the queries that stand in `slots`."""
    whole = (length, length)
    mask = masks.CausalMask(whole) if window is None else masks.LocalMask(whole, (window - 1, 0), 0)
    queries, keys = _block(slots.shape[0]), _block(length)
    # A block of a stripe reaches as far along the row, and so meets the same blocks of keys, as one of all tokens that
    # is longer by the number of stripes. Within a block the kernel compares the tokens' own places.
    built = splash.make_splash_mqa(
        masks.MultiHeadMask([mask] * group),
        block_sizes=_sizes(queries * count, keys),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=GATHERED,
        interpret=interpret,
    )
    passes = built.fwd_mask_info, built.dq_mask_info, built.dkv_mask_info
    infos = [each._replace(q_sequence=slots) for each in passes if each is not None]
    return splash.SplashAttentionKernel(*infos, **{**built.kwargs, "block_sizes": _sizes(queries, keys)})


def _sizes(queries: int, keys: int) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_kv_compute=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_kv_dkv_compute=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )
