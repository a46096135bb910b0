"""A function of tokens and of the heads' columns, run where they lie: rows over data and fsdp, words over tensor."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from atkd_jax.sharding.rules import PARAMETER_RULES, ROWS

VOCAB_AXIS = PARAMETER_RULES["vocab"]


def map_tokens(
    function: Callable[[Any, Any], tuple[jax.Array, Any]], mesh: Mesh, *, tokens: Any, heads: Any
) -> tuple[jax.Array, Any]:
    """Returns `function(tokens, heads)` with each device's own rows and its own columns of the heads.

    Logits stay on the devices that form them. A head whose width is split over fsdp is gathered, as any layer's weights
    are for their product; its gradient goes back the same way.

    Args:
      function: gives a scalar that it has summed over the token axes and the vocabulary's axis, and a tree of arrays
        with a value per token.
      mesh: all devices.
      tokens: a tree of `[rows, ...]`, split over `ROWS`.
      heads: a tree of `[width, columns]` whose columns the vocabulary's axis divides, see `even_columns`.

    Returns:
      The scalar, the same on every device, and the tree of `[rows, ...]`.
    """
    by_rows, by_words = PartitionSpec(ROWS), PartitionSpec(None, VOCAB_AXIS)
    specs = jax.tree.map(lambda _: by_rows, tokens), jax.tree.map(lambda _: by_words, heads)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=(PartitionSpec(), by_rows))(tokens, heads)


def even_columns(head: jax.Array, vocab_size: int, mesh: Mesh) -> jax.Array:
    """Returns a head `[width, vocab_size or more]` with padded columns cut, and as many added as the mesh asks for."""
    parts = mesh.shape[VOCAB_AXIS]
    return jnp.pad(head[:, :vocab_size], ((0, 0), (0, -vocab_size % parts)))
