"""Pictures of studies and of distributions, by matplotlib, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atkd_jax.analysis.summary import Summary
from atkd_jax.analysis.tables import MEASURES
from atkd_jax.errors import InputError

if TYPE_CHECKING:  # It imports jax, which a study itself has no use for.
    from atkd_jax.analysis.landscape import Landscape


def draw_measure(summaries: Sequence[Summary], *, x: str, measure: str, path: Path) -> None:
    """Draws a measure against one axis of a study: a line for every choice of the others, with the seeds' deviation.

    Args:
        summaries: The study's.
        x: The axis.
        measure: The measure.
        path: Where to.

    Raises:
        InputError: matplotlib is not installed, or no cell is on this axis and has this measure.
    """
    lines: dict[str, list[Summary]] = {}
    for each in summaries:
        if x in each.labels and measure in each.spreads and not each.is_prepared:
            rest = ", ".join(label for axis, label in each.labels.items() if axis != x)
            lines.setdefault(rest, []).append(each)
    if not lines:
        raise InputError(f"study: no cell that has finished is on the axis {x!r} with the measure {measure!r}.")
    figure, axes = _figure()
    places = list(dict.fromkeys(each.labels[x] for own in lines.values() for each in own))
    for name, own in lines.items():
        spreads = [each.spreads[measure] for each in own]
        axes.errorbar(
            [places.index(each.labels[x]) for each in own],
            [value.mean for value in spreads],
            yerr=[value.deviation or 0.0 for value in spreads],
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set_xticks(range(len(places)), [place.partition("=")[2] or place for place in places])
    axes.set_xlabel(x)
    axes.set_ylabel(MEASURES[measure][0] if measure in MEASURES else measure)
    if any(lines):
        axes.legend()
    _save(figure, path)


def draw_densities(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, x: str, path: Path) -> None:
    """Draws densities beside each other.

    Args:
        curves: Name -> places and densities, `[points]` each.
        title: Of the picture.
        x: What is distributed.
        path: Where to.
    """
    figure, axes = _figure()
    for name, (places, values) in curves.items():
        axes.plot(places, values, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel("density")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend()
    _save(figure, path)


def draw_landscapes(found: Mapping[str, Mapping[int, Landscape]], *, title: str, path: Path) -> None:
    """Draws the loss around students: a line for each direction, or contours over each plane.

    Args:
        found: Student -> seed of the directions -> losses.
        title: Of the picture.
        path: Where to.

    Raises:
        InputError: matplotlib is not installed.
    """
    if all(each.losses.ndim == 1 for own in found.values() for each in own.values()):
        figure, axes = _figure()
        for number, (name, own) in enumerate(found.items()):
            for place, each in enumerate(own.values()):
                axes.plot(each.places, each.losses, color=f"C{number}", label=name if place == 0 else None)
        axes.set_xlabel("place along a filter-normalised direction")
        axes.set_ylabel("cross-entropy, nats a token")
        axes.set_title(title)
        axes.legend()
        _save(figure, path)
        return
    columns = max(len(own) for own in found.values())
    figure, grid = _figure(rows=len(found), columns=columns)
    for row, (name, own) in zip(grid, found.items(), strict=True):
        for axes, (seed, each) in zip(row, own.items(), strict=True):
            drawn = axes.contourf(each.places, each.places, each.losses.T, levels=20)
            figure.colorbar(drawn, ax=axes)
            axes.plot(0, 0, marker="+", color="white")
            axes.set_title(f"{name}, seed {seed}", fontsize=9)
    figure.suptitle(f"{title}: cross-entropy, nats a token")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Writes a PNG file, without the address by which matplotlib names itself."""
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _figure(rows: int = 0, columns: int = 0) -> tuple[Any, Any]:
    """A figure of its own, which no window shows and nothing else knows of, with one picture or a grid of them."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("Pictures need the package matplotlib: `pip install 'atkd-jax[plots]'`.") from None
    if not rows:
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        return figure, figure.subplots()
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
