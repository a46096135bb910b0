"""One number per array of a checkpoint, by which a flipped byte is found when it is read back.

Orbax detects a file that is cut short or missing, not one whose numbers changed.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp


def array_digests(tree: Any) -> dict[str, int]:
    """Returns a 32-bit digest of every array by its path in the tree.

    It is the sum, modulo 2^32, of the bits of each element times an odd number made from its place; so a change in any
    one element always shows, two elements cannot be exchanged, and the sharding of the array does not matter.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(_digests(tree)))
    return {jax.tree_util.keystr(path): int(digest) for path, digest in leaves}


def json_digest(value: Any) -> int:
    """Returns the CRC-32 of a value's JSON text."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _digests(tree: Any) -> Any:
    return jax.tree.map(_digest, tree)


def _digest(array: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32))
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    odd = (place * jnp.uint32(2654435761)) | jnp.uint32(1)  # Knuth's multiplier spreads neighbouring places.
    return jnp.sum(bits * odd, dtype=jnp.uint32)
