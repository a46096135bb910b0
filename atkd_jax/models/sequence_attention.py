"""Attention where heads, rows and the tokens of a row are split over devices.

Over the sequence axis keys and values are gathered, and queries are dealt out anew. Gathering is right here, and a ring
is not: with grouped heads keys and values are the smallest of a layer's arrays; one collective a layer is moved behind
other work by the compiler; and a mask of segments and windows empties different steps of a ring on different devices,
all of which would wait for the fullest.

A device has neighbouring tokens of a row, of which the last have the most to look back at. So that the work is even,
attention alone deals the queries out in stripes, every n-th token to one of n devices: then the i-th query of each
device is among the row's tokens n i to n i + n - 1, all of them meet the same keys, and the part of the scores that no
token needs is left out on every device, as `causal_attention` does it on one. What is gathered goes back to the tokens'
own devices. Elsewhere in a layer tokens do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.sharding import SEQUENCE_AXIS, map_heads


class Stripe(NamedTuple):
    """Which of a row's tokens the queries are of: every `count`-th one, from number `first` on."""

    count: int
    first: int | jax.Array


WHOLE_ROW = Stripe(1, 0)


def attention_on_mesh(
    attend: Callable[..., jax.Array],
    mesh: Mesh,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    window: int | jax.Array | None,
) -> jax.Array:
    """Return what `attend` gives on one device: [B, T, heads, head_dim].

    Args:
        attend: `causal_attention`, with the model's scores.
        mesh: all devices.
        query: [B, T, heads, head_dim].
        key: [B, kv_heads, T, head_dim].
        value: like key.
        segment_ids: int [B, T].
        window: see `attention_mask`.

    Raises:
        InputError: where T is not a multiple of the square of the devices that share a row.
    """
    parts, length = mesh.shape[SEQUENCE_AXIS], query.shape[1]
    if length % parts**2:
        raise InputError(
            f"mesh.sequence={parts}: a row must have a multiple of {parts**2} tokens, its square, got {length}; change "
            "data.sequence_length or mesh.sequence."
        )

    def own(query, key, value, segment_ids, *window_array):
        seen = window_array[0] if window_array else window
        if parts == 1:
            return attend(query, key, value, segment_ids, window=seen)
        key, value = (jax.lax.all_gather(each, SEQUENCE_AXIS, axis=2, tiled=True) for each in (key, value))
        segment_ids = jax.lax.all_gather(segment_ids, SEQUENCE_AXIS, axis=1, tiled=True)
        stripe = Stripe(parts, jax.lax.axis_index(SEQUENCE_AXIS))
        return _undealt(attend(_dealt(query, parts), key, value, segment_ids, window=seen, stripe=stripe), parts)

    traced = (window,) if isinstance(window, jax.Array) else ()
    return map_heads(own, mesh, query, key, value, segment_ids, *traced)


def _dealt(query: jax.Array, parts: int) -> jax.Array:
    """Return every `parts`-th token of the row, in their order, for neighbouring ones: [B, T / parts, ...] each."""
    split = query.reshape(query.shape[0], -1, parts, *query.shape[2:])
    return jax.lax.all_to_all(split, SEQUENCE_AXIS, split_axis=2, concat_axis=1, tiled=True).reshape(query.shape)


def _undealt(gathered: jax.Array, parts: int) -> jax.Array:
    """Undo `_dealt`."""
    split = gathered.reshape(gathered.shape[0], -1, 1, *gathered.shape[2:])
    return jax.lax.all_to_all(split, SEQUENCE_AXIS, split_axis=1, concat_axis=2, tiled=True).reshape(gathered.shape)
