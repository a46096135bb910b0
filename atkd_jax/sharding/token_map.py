"""Functions that run where their arrays lie: of tokens and of the heads' columns, and of the heads of attention."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from atkd_jax.sharding.rules import ACTIVATION_RULES, PARAMETER_RULES, activation_spec

VOCAB_AXIS = PARAMETER_RULES["vocab"]
(SEQUENCE_AXIS,) = ACTIVATION_RULES["length"]


def map_tokens(
    function: Callable[[Any, Any], tuple[jax.Array, Any]], mesh: Mesh, *, tokens: Any, heads: Any
) -> tuple[jax.Array, Any]:
    """Returns `function(tokens, heads)` with each device's own tokens and its own columns of the heads.

    Logits stay on the devices that form them. A head whose width is split over fsdp is gathered, as any layer's weights
    are for their product; its gradient goes back the same way.

    Args:
      function: gives a scalar that it has summed over the token axes and the vocabulary's axis, and a tree of arrays
        with a value per token.
      mesh: all devices.
      tokens: a tree of `[rows, length, ...]`, split over rows and length.
      heads: a tree of `[width, columns]` whose columns the vocabulary's axis divides, see `even_columns`.

    Returns:
      The scalar, the same on every device, and the tree of `[rows, length, ...]`.
    """
    by_token = PartitionSpec(ACTIVATION_RULES["rows"], ACTIVATION_RULES["length"])
    specs = jax.tree.map(lambda _: by_token, tokens), jax.tree.map(lambda _: PartitionSpec(None, VOCAB_AXIS), heads)

    def own(tokens: Any, heads: Any) -> tuple[jax.Array, Any]:
        # Or the TPU's compiler gathers the heads again in every turn of a loop over chunks, to keep nothing meanwhile.
        return function(tokens, jax.lax.optimization_barrier(heads))

    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=(PartitionSpec(), by_token))(tokens, heads)


def even_columns(head: jax.Array, vocab_size: int, mesh: Mesh) -> jax.Array:
    """Returns a head `[width, vocab_size or more]` with padded columns cut, and as many added as the mesh asks for."""
    parts = mesh.shape[VOCAB_AXIS]
    return jnp.pad(head[:, :vocab_size], ((0, 0), (0, -vocab_size % parts)))


def map_heads(
    function: Callable[..., jax.Array],
    mesh: Mesh,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *rest: Any,
) -> jax.Array:
    """Returns `function(query, key, value, segment_ids, *rest)` with each device's own tokens and heads.

    Args:
      function: gives `[rows, length, heads, head_dim]` of its share; it may use collectives over `SEQUENCE_AXIS`.
      mesh: all devices.
      query: `[rows, length, heads, head_dim]`.
      key: `[rows, kv_heads, length, head_dim]`.
      value: like key.
      segment_ids: `[rows, length]`.
      rest: arrays that every device has whole.
    """
    # A group of query heads stays with its key-value head.
    are_split = key.shape[1] % mesh.shape[ACTIVATION_RULES["kv_heads"][0]] == 0
    heads, kv_heads = ("heads", "kv_heads") if are_split else (None, None)
    of_query = activation_spec(mesh, ("rows", "length", heads, "head_dim"), query.shape)
    of_key = activation_spec(mesh, ("rows", kv_heads, "length", "head_dim"), key.shape)
    of_segments = activation_spec(mesh, ("rows", "length"), segment_ids.shape)
    specs = (of_query, of_key, of_key, of_segments, *(PartitionSpec() for _ in rest))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=of_query, check_vma=False)
    return mapped(query, key, value, segment_ids, *rest)
