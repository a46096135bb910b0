"""Weights as small integers and scales: four bits are packed in pairs, so that they take half a byte everywhere."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from atkd_jax.errors import InputError

Bits = Literal["int8", "int4"]
BITS = get_args(Bits)
# With 4 bits so many numbers along the summed axis share a scale, where that divides it.
TILE = 64


def _qwix():
    try:
        import qwix
    except ImportError:
        raise InputError(
            "teacher.quantize stores weights by the package qwix, but that is not installed; run "
            "`pip install atkd-jax[quantize]`, or leave it out."
        ) from None
    return qwix


def quantized(array: jax.Array, bits: Bits, *, summed_axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return integers and the scales that they are multiples of: symmetric, rounded to nearest, largest size kept.

    With int8 everything along the summed axes shares a scale; with int4 so do 64 neighbours on the last of them, or all
    of it where 64 does not divide it.

    Args:
        array: float, of any shape.
        bits: of the integers.
        summed_axes: the axes that a product sums over; for the rows of a table, the axis of a row.

    Returns:
        int8 of the array's shape, or uint8 with two numbers in each and half as long in the last axis; and scales of
        the array's type and number of axes, each axis 1, the number of tiles, or whole.

    Raises:
        InputError: where qwix is not installed.
    """
    last = summed_axes[-1]
    is_packed = bits == "int4" and array.shape[-1] % 2 == 0
    tile = TILE if array.shape[last] % TILE == 0 else array.shape[last]
    whole = [axis for axis in range(array.ndim) if axis not in (summed_axes if bits == "int8" else (last,))]
    tiles = {} if bits == "int8" else {last: tile}
    found = _qwix().quantize(array, jnp.dtype(bits), channelwise_axes=whole, tiled_axes=tiles)
    if not is_packed:
        return found.qvalue.astype(jnp.int8), found.scale
    pairs = found.qvalue.astype(jnp.int8).astype(jnp.uint8).reshape(*array.shape[:-1], -1, 2)
    return (pairs[..., 0] & 15) | (pairs[..., 1] << 4), found.scale


def dequantized(integers: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the floats, of the scale's type, that `quantized` has left of an array."""
    if integers.dtype == jnp.uint8:
        pairs = jnp.stack([integers << 4, integers], axis=-1).astype(jnp.int8) >> 4  # each keeps its sign
        integers = pairs.reshape(*integers.shape[:-1], -1)
    qwix = _qwix()
    return qwix.dequantize(qwix.QArray(integers, scale))
