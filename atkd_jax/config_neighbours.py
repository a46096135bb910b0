"""The part of the config that is AdaKD's: how much of each example is learned from the teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_node import Node


class InstanceWeightingConfig(Node):
    """AdaKD: alpha KD + (1 - alpha) cross-entropy, with an alpha of every example by the teacher's loss on it."""

    k_start: float | None = Field(
        default=None, gt=0, description="Steepness at the first step, easy examples first; none weighs all alike."
    )
    k_end: float | None = Field(default=None, lt=0, description="Steepness at the last step, hard examples last.")
    threshold: float | None = Field(
        default=None,
        description="The teacher's mean loss over the data's examples, nats per token; none measures it at the start.",
    )
    threshold_examples: int | None = Field(
        default=None, ge=1, description="Measure the threshold on so many evenly spaced examples; none takes all."
    )
    averaging: Literal["tokens", "examples"] = Field(
        default="tokens", description="What counts alike in the batch's loss: every token, or every example."
    )

    @property
    def is_on(self) -> bool:
        """Whether examples are weighted."""
        return self.k_start is not None

    @model_validator(mode="after")
    def _has_both_ends(self) -> InstanceWeightingConfig:
        if (self.k_start is None) != (self.k_end is None):
            raise ValueError(
                "objective.instance_weighting needs both k_start and k_end, or neither, but "
                f"k_start={self.k_start} and k_end={self.k_end} came"
            )
        return self

    def require_place_in(self, name: str, *, cross_entropy_weight: float) -> None:
        """Raises ValueError where the objective of that name has no room for the weights."""
        if self.is_on and (name == "cross_entropy" or name.startswith("minillm")):
            raise ValueError(
                f"objective.instance_weighting weighs a divergence against the data's cross-entropy, but objective.name"
                f"={name} is none; name a divergence or atkd, or leave k_start and k_end out"
            )
        if self.is_on and cross_entropy_weight:
            raise ValueError(
                "objective.instance_weighting says how much cross-entropy each example has, and "
                f"objective.cross_entropy_weight={cross_entropy_weight} says it too; leave that at 0"
            )
