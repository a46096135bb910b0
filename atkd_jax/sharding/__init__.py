"""Where arrays live: the device mesh, and the one table from logical axes to mesh axes."""

from atkd_jax.sharding.mesh import make_mesh
from atkd_jax.sharding.rules import (
    ROWS,
    parameter_sharding,
    parameter_shardings,
    replicated,
    row_sharding,
    rows_divisor,
    shard_batch,
)
from atkd_jax.sharding.token_map import VOCAB_AXIS, even_columns, map_tokens

__all__ = [
    "ROWS",
    "VOCAB_AXIS",
    "even_columns",
    "make_mesh",
    "map_tokens",
    "parameter_sharding",
    "parameter_shardings",
    "replicated",
    "row_sharding",
    "rows_divisor",
    "shard_batch",
]
