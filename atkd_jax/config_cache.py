"""What a teacher's cache keeps of each token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atkd_jax.config_node import Node


class CacheConfig(Node):
    """What `cache` writes to teacher.cache. Where `train` reads it, none is whatever was written."""

    kind: Literal["top_k", "rest_sample", "hidden", None] = Field(
        default=None,
        description="The likeliest ids, draws from the distribution without the target, or the last hidden states; "
        "none writes top_k.",
    )
    k: int | None = Field(default=None, ge=1, le=256, description="top_k: how many ids; none writes 64.")
    tail_draws: int | None = Field(
        default=None, ge=0, le=255, description="top_k: draws from the mass outside of them; none writes 0."
    )
    draws: int | None = Field(default=None, ge=1, le=255, description="rest_sample: how many; none writes 64.")
    hidden_type: Literal["float32", "bfloat16", "int8", None] = Field(
        default=None, description="hidden: what states are stored in; none writes bfloat16."
    )
    seed: int | None = Field(default=None, ge=0, description="Of draws; none writes 0.")
    examples_per_shard: int = Field(
        default=512, ge=1, description="Consecutive examples in a file; processes write files of their own."
    )
