"""The part of the config that says how the loss around a trained student is looked at."""

from __future__ import annotations

from pydantic import Field, model_validator

from atkd_jax.config_node import Node


class LandscapeConfig(Node):
    """The loss around a student, along random directions; `landscape` reads it."""

    dimensions: int = Field(default=1, ge=1, le=2, description="1 goes along a direction, 2 over the plane of two.")
    points: int = Field(default=21, ge=3, description="Places along each direction; an odd number, so that 0 is one.")
    radius: float = Field(
        default=0.5, gt=0, description="How far it goes to each side; at 1 every filter is moved by its own norm."
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="Each draws a direction, or two; the spread is over them."
    )
    curvature_step: float = Field(default=0.05, gt=0, description="Of the difference that gives the curvature.")

    @model_validator(mode="after")
    def _has_a_middle(self) -> LandscapeConfig:
        if self.points % 2 == 0:
            raise ValueError(
                f"landscape.points={self.points} must be odd, so that the student itself is among the places; take "
                f"{self.points + 1}"
            )
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"landscape.seeds={list(self.seeds)} must be whole numbers from 0 on, each once; leave the others out"
            )
        return self
