"""The page's section on how sure teachers are of held-out tokens."""

from __future__ import annotations

from collections.abc import Sequence

from atkd_jax.analysis.page import Block, Picture, Pictures, Table


def uncertainty_blocks(name: str, lines: Sequence[Sequence[str]], picture: bytes | None) -> list[Block]:
    """Returns the section's blocks; none where `uncertainty` kept nothing.

    Args:
        name: Of the run or the study.
        lines: Of the table that it kept; the first one are the headings.
        picture: The PNG file that it drew.
    """
    if not lines:
        return []
    headings, *rows = lines
    digits = [[row[0], *(_digits(value) for value in row[1:])] for row in rows]
    drawn = Picture(picture, f"{name}: density of the teachers' uncertainty") if picture is not None else None
    return [*([Pictures([drawn])] if drawn else []), Table(headings, digits, caption=name)]


def _digits(text: str) -> str:
    return text if "." not in text else f"{float(text):.4f}"
