"""Where arrays live and who takes part: device mesh, the tables from logical axes to mesh axes, processes."""

from atkd_jax.sharding.agreement import PendingSum, SumOverProcesses, gathered
from atkd_jax.sharding.mesh import Meshes, RowShare, make_mesh, make_meshes, row_share
from atkd_jax.sharding.processes import join_processes, leave_after_error, process_name
from atkd_jax.sharding.rules import (
    TOKENS,
    constrain,
    own_rows,
    parameter_sharding,
    parameter_shardings,
    replicated,
    row_sharding,
    rows_divisor,
    shard_batch,
    spread,
    whole_row_sharding,
)
from atkd_jax.sharding.token_map import SEQUENCE_AXIS, VOCAB_AXIS, even_columns, map_heads, map_tokens

__all__ = [
    "SEQUENCE_AXIS",
    "TOKENS",
    "VOCAB_AXIS",
    "Meshes",
    "PendingSum",
    "RowShare",
    "SumOverProcesses",
    "constrain",
    "even_columns",
    "gathered",
    "join_processes",
    "leave_after_error",
    "make_mesh",
    "make_meshes",
    "map_heads",
    "map_tokens",
    "own_rows",
    "parameter_sharding",
    "parameter_shardings",
    "process_name",
    "replicated",
    "row_sharding",
    "row_share",
    "rows_divisor",
    "shard_batch",
    "spread",
    "whole_row_sharding",
]
