"""The page's section on the loss around a run's student, or around several students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atkd_jax.analysis.page import Block, Note, Picture, Pictures, Table
from atkd_jax.analysis.paired import spread

_RULE = (
    "Cross-entropy in nats a token on {source}, {split}, along random directions whose filters have the norms of the "
    "weights' own (Li et al. 2018). Rise: the largest loss within the radius of {radius}, less the student's. "
    "Curvature: the second derivative along a direction at the student. Mean ± standard deviation over the seeds."
)


def landscape_blocks(name: str, landscape: Mapping[str, Any], picture: bytes | None) -> list[Block]:
    """Returns the section's blocks; none where `landscape` kept nothing.

    Args:
        name: Of the run or the study.
        landscape: What it kept.
        picture: The PNG file that it drew.
    """
    students: Mapping[str, Sequence[Mapping[str, Any]]] = landscape.get("students", {})
    if not students:
        return []
    blocks: list[Block] = []
    if picture is not None:
        blocks.append(Pictures([Picture(picture, f"{name}: the loss around students")]))
    blocks.append(Table(*sharpness(students), caption=name))
    facts = {fact: landscape.get(fact) for fact in ("source", "split", "radius")}
    return [*blocks, Note(_RULE.format(**facts))]


def sharpness(students: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Returns headings and a row per student: its loss, rise and curvature, with their spread over the seeds.

    Args:
        students: By name what `Landscape.to_json` gives for each seed.
    """
    measures = ("loss", "rise", "curvature")
    rows = [
        [student, str(len(own)), *(_spread([each[measure] for each in own]) for measure in measures)]
        for student, own in students.items()
    ]
    return ["", "seeds", *measures], rows


def _spread(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return "not finite"
    own = spread(dict(enumerate(finite)))
    return f"{own.mean:.4f}" if not own.deviation else f"{own.mean:.4f} ± {own.deviation:.4f}"
