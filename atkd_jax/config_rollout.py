"""The part of the config tree that says who writes the text that is learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atkd_jax.config_node import Node


class RolloutConfig(Node):
    """Learning from text that models write during the run."""

    author: Literal["data", "student", "teacher", "mixed"] = Field(
        default="data",
        description="Who writes the responses; mixed: each token is drawn from a p + (1 - a) q, teacher p, student q.",
    )
    fraction: float = Field(
        default=1.0, ge=0, le=1, description="The probability that a row's response is written; the rest is the data's."
    )
    teacher_weight: float = Field(default=0.2, ge=0, le=1, description="mixed: a.")
    max_new_tokens: int = Field(default=128, ge=1, description="The longest response.")
    temperature: float = Field(default=1.0, ge=0, description="Divides the logits; 0 takes the likeliest token.")
    top_k: int | None = Field(default=None, ge=1, description="Draw among so many of the likeliest tokens.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw among the fewest tokens of so much probability together."
    )
    buffer_size: int = Field(
        default=0,
        ge=0,
        description="Keep so many written texts; they are learned from again ever more often, in place of new ones.",
    )
    once: bool = Field(
        default=False,
        description="teacher: it answers all of data.train_split before the first step, into a file of the run, which "
        "is then learned from in place of the data's responses.",
    )
    fraction_step: float = Field(
        default=0.0, ge=0, le=1, description="Added to the fraction whenever the validation loss has risen; up to 1."
    )
    fraction_tolerance: float = Field(
        default=0.1, ge=0, description="By how many nats per token it must have risen since the fraction was set."
    )
    unstack_layers: bool = Field(
        default=False,
        description="Write with a second copy of the layers' weights, taken apart, which is faster on CPUs.",
    )

    @property
    def is_during_training(self) -> bool:
        """Whether text is written between steps."""
        return self.author != "data" and not self.once

    def require_place_in(
        self, *, packing: bool, corpus: str | None, validates: bool, weighs_instances: bool, sequence: int
    ) -> None:
        """Raises ValueError where the rest of the config does not go with it.

        Args:
            packing: data.packing.
            corpus: data.corpus.
            validates: Whether the run measures a validation loss.
            weighs_instances: Whether examples are weighed by the teacher's loss on them.
            sequence: mesh.sequence.
        """
        if self.once and (self.author != "teacher" or self.fraction < 1 or self.buffer_size):
            raise ValueError(
                "rollout.once=true has the teacher answer every prompt before the first step, but "
                f"author={self.author}, fraction={self.fraction} and buffer_size={self.buffer_size} came; set them to "
                "teacher, 1 and 0"
            )
        if self.author != "data" and weighs_instances:
            raise ValueError(
                f"objective.instance_weighting is by the teacher's loss on the data's text, but rollout.author="
                f"{self.author} writes other text; set it to data, or leave k_start and k_end out"
            )
        if self.is_during_training and packing:
            raise ValueError(
                f"rollout.author={self.author} writes one response a row, but data.packing=true puts several "
                "into one; set data.packing to false"
            )
        if self.is_during_training and sequence > 1:
            raise ValueError(
                f"rollout.author={self.author} writes whole rows, but mesh.sequence={sequence} splits a row's tokens "
                "over devices; set mesh.sequence to 1 and use fsdp or tensor"
            )
        if corpus is not None and not self.is_during_training:
            raise ValueError(
                f"data.corpus={corpus} stands in the rows that no model writes, but no rows are written during "
                "training; name it as data.source, or set rollout.author"
            )
        if self.fraction_step and not (self.is_during_training and validates):
            raise ValueError(
                f"rollout.fraction_step={self.fraction_step} goes by the validation loss of a run that writes text, "
                "but rollout.author or training.validate_every_steps is not set; set both"
            )
