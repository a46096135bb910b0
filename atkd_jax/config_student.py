"""The part of the config tree that says which model learns, and where it starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atkd_jax.config_node import Node, UserPath

_LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


class LoraConfig(Node):
    """Adapters of low rank beside the student's frozen weights; only they are trained and saved."""

    rank: int | None = Field(default=None, ge=1, description="Of the adapters; none trains all weights instead.")
    alpha: float = Field(default=16.0, gt=0, description="An adapter's product is multiplied by alpha / rank.")
    targets: tuple[str, ...] = Field(
        default=_LORA_TARGETS, description=f"The products that get one: {', '.join(_LORA_TARGETS)}."
    )

    @model_validator(mode="after")
    def _has_targets(self) -> LoraConfig:
        is_known = set(self.targets) <= set(_LORA_TARGETS)
        if not self.targets or not is_known or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"student.lora.targets must be some of {', '.join(_LORA_TARGETS)}, each once, but "
                f"{list(self.targets)} came"
            )
        return self


class StudentConfig(Node):
    """The model that learns, and where it starts."""

    init: Literal["prune", "directory", "scratch"] = Field(
        default="prune", description="A pruned copy of the teacher, a directory's weights, or random weights."
    )
    layers: int | None = Field(default=None, ge=1, description="prune: how many layers to keep.")
    layer_choice: Literal["even", "block_influence"] = Field(
        default="even",
        description="prune: evenly spaced layers, both ends kept, or those that change their input most.",
    )
    keep_layers: tuple[int, ...] = Field(default=(), description="prune: the layers to keep, by number from 0.")
    mlp_width: int | None = Field(
        default=None, ge=1, description="prune: how many units of each MLP to keep, the most active ones."
    )
    kv_heads: int | None = Field(
        default=None, ge=1, description="prune: how many key-value heads to keep in each layer, with their query heads."
    )
    calibration_batches: int = Field(
        default=1,
        ge=1,
        description="prune: batches of the training data on which layers, units and heads are measured.",
    )
    directory: UserPath | None = Field(
        default=None, description="directory: a Hugging Face directory, a GGUF file, or a hub id, to start from."
    )
    size: str | None = Field(default=None, description="scratch: a name in the table of sizes.")
    lora: LoraConfig = LoraConfig()

    @property
    def needs_measuring(self) -> bool:
        """Whether what is kept of the teacher depends on data."""
        by_influence = self.layers is not None and self.layer_choice == "block_influence"
        return self.init == "prune" and (by_influence or self.mlp_width is not None or self.kv_heads is not None)

    @model_validator(mode="after")
    def _is_complete(self) -> StudentConfig:
        by_width = self.mlp_width is not None or self.kv_heads is not None
        needed = {
            "prune": bool(self.layers) != bool(self.keep_layers) or (by_width and not self.layers),
            "directory": self.directory is not None,
            "scratch": self.size is not None,
        }
        fields = {
            "prune": "exactly one of student.layers and student.keep_layers",
            "directory": "student.directory",
            "scratch": "student.size",
        }
        if not needed[self.init]:
            raise ValueError(f"student.init={self.init} needs {fields[self.init]} to be set")
        if self.layer_choice == "block_influence" and not self.layers:
            raise ValueError("student.layer_choice=block_influence needs student.layers, the number to keep, to be set")
        if any(number < 0 for number in self.keep_layers) or list(self.keep_layers) != sorted(set(self.keep_layers)):
            raise ValueError(
                "student.keep_layers must be layer numbers from 0, ascending, each once, "
                f"but {list(self.keep_layers)} came"
            )
        return self
