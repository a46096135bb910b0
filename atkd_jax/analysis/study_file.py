"""A study as its YAML file says it: which runs there are, over which seeds, and what is compared with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from atkd_jax import config_fields
from atkd_jax.config_file import read_yaml
from atkd_jax.config_node import Node, UserPath
from atkd_jax.errors import InputError


class CellSettings(Node):
    """One kind of run of a study."""

    config: Path | None = Field(default=None, description="The run's config file; the study's base if not set.")
    settings: dict[str, Any] = Field(default={}, description="What differs from it, by dotted names or in groups.")
    seeds: tuple[int, ...] = Field(default=(), description="Its own seeds; the study's if not set.")


class Plot(Node):
    """A picture of the results."""

    x: str = Field(description="The axis that it goes along.")
    y: str = Field(default="perplexity", description="The measure.")


_MEASURES = (
    "cross_entropy",
    "perplexity",
    "bits_per_byte",
    "forward_kl",
    "reverse_kl",
    "top1_agreement",
    "top1_accuracy",
    "expected_calibration_error",
    "rouge_l",
    "tokens_per_second",
)
_SHARES = "gradient_share_"


class Claim(Node):
    """A sentence that the results speak for or against, by the rule of `claims.RULE`.

    Cells are named by labels: `[kd, 10m]` are those that have both, `[kd]` those of every other choice as well.
    """

    name: str = Field(description="A few words.")
    sentence: str = Field(description="What is claimed.")
    measure: str = Field(default="perplexity", description="Of the students.")
    cells: tuple[str, ...] = Field(min_length=1, description="Labels of the cells that it is about.")
    expect: Literal["lower", "higher", "grows", "falls"] = Field(
        description="The measure is lower or higher than that of other cells, or grows or falls along an axis."
    )
    than: tuple[str, ...] = Field(
        default=(), description="lower, higher: labels of the cells that they are compared with."
    )
    along: str | None = Field(
        default=None, description="grows, falls: the axis. With lower or higher the slopes along it are compared."
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Claim:
        compares = self.expect in ("lower", "higher")
        if compares != bool(self.than):
            raise ValueError(
                f"a claim that something is lower or higher needs than, and no other has it, but expect={self.expect} "
                f"came with than={list(self.than)}"
            )
        if not compares and self.along is None:
            raise ValueError(f"a claim that something {self.expect} needs along, the axis")
        if self.measure not in _MEASURES and not self.measure.startswith(_SHARES):
            raise ValueError(f"measure must be one of {', '.join(_MEASURES)}, or {_SHARES} and a part of the loss")
        return self


class Study(Node):
    """A grid of runs over seeds. Paths of configs are relative to the study's file."""

    directory: UserPath = Field(description="Everything that the study writes lands here.")
    base: Path | None = Field(default=None, description="The config file that the cells differ from.")
    configs: tuple[str, ...] = Field(
        default=(), description="Config files, or patterns of them: each is a cell with the file's name."
    )
    cells: dict[str, CellSettings] = Field(default={}, description="Cells by name.")
    prepared: dict[str, CellSettings] = Field(
        default={}, description="Cells outside the grid that others start from, by the first seed unless they say more."
    )
    grid: dict[str, tuple[Any, ...] | dict[str, dict[str, Any]]] = Field(
        default={},
        description="Each axis: values of the key that it is named for, or named groups of settings. Every cell is run "
        "for every combination.",
    )
    settings: dict[str, Any] = Field(default={}, description="Of all cells; a cell's own go over them.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Each cell is run with each.")
    reference: str | dict[str, str] | None = Field(
        default=None,
        description="What cells are compared with: one cell, or one choice of an axis, or a cell for each by name.",
    )
    claims: tuple[Claim, ...] = Field(default=(), description="What the results are held against, claim by claim.")
    plots: tuple[Plot, ...] = Field(default=(), description="Pictures, each of a measure along an axis of the grid.")
    processes: int = Field(
        default=1,
        ge=1,
        description="How many cells run at a time, at most; fewer where memory or processors are lacking.",
    )
    keep_checkpoints: bool = Field(
        default=True, description="Whether those of a cell stay after it has finished; they hold the optimizer's state."
    )
    keep_students: bool = Field(
        default=False,
        description="Whether every cell's student is kept as a Hugging Face directory, and not only those that other "
        "cells start from.",
    )
    environments: tuple[dict[str, str], ...] = Field(
        default=(), description="Variables of each of the processes, such as the accelerator that it may see."
    )


def read_study(path: Path) -> Study:
    """Reads a study's file.

    Raises:
        InputError: The file cannot be read, or a key is unknown or has a value that it cannot have.
    """
    try:
        study = Study.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error)}.") from None
    for seeds in (study.seeds, *(cell.seeds for cell in (*study.cells.values(), *study.prepared.values()))):
        if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
            raise InputError(f"{path}: seeds must be whole numbers from 0 on, each once, but {list(seeds)} came.")
    if study.environments and len(study.environments) != study.processes:
        raise InputError(
            f"{path}: environments must have one for each of the {study.processes} processes, but "
            f"{len(study.environments)} came."
        )
    return study


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings in groups, or by dotted names, all by dotted names.

    Example:
        >>> flat_settings({"training": {"steps": 3}, "student.layers": 2})
        {'training.steps': 3, 'student.layers': 2}
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _sentence(error: ValidationError) -> str:
    detail = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    dotted = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *_, name = detail["loc"]
        kinds = {"claims": Claim, "plots": Plot}
        known = (Study if len(detail["loc"]) == 1 else kinds.get(str(detail["loc"][0]), CellSettings)).model_fields
        near = config_fields.nearest(str(name), known)
        return f"unknown key {dotted}; " + (f"the nearest is {near}" if near else f"there are {', '.join(known)}")
    if detail["type"] == "missing":
        fields = Study.model_fields | Claim.model_fields
        return f"{dotted} is needed: {fields[str(detail['loc'][-1])].description}"
    return f"{dotted}: {detail['msg'][0].lower()}{detail['msg'][1:]}, but {detail['input']!r} came"
