"""Where arrays live: the device mesh, and the one table from logical axes to mesh axes."""

from atkd_jax.sharding.mesh import make_mesh
from atkd_jax.sharding.rules import (
    parameter_sharding,
    parameter_shardings,
    replicated,
    row_sharding,
    rows_divisor,
    shard_batch,
)

__all__ = [
    "make_mesh",
    "parameter_sharding",
    "parameter_shardings",
    "replicated",
    "row_sharding",
    "rows_divisor",
    "shard_batch",
]
