"""Curves by matplotlib, as SVG texts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atkd_jax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What matplotlib would say of itself, by addresses elsewhere.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw_curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    *,
    title: str,
    x: str,
    is_logarithmic: bool = False,
    width_inches: float = 4.6,
) -> str:
    """Returns one picture of some lines as an SVG text, its letters drawn as shapes.

    Args:
        lines: Name -> places and values; a value of None, or one that is not finite, leaves a gap.
        title: Of the picture.
        x: What the places are.
        is_logarithmic: Draw the values on a logarithmic scale.
        width_inches: Of the picture; it is two thirds as high.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter
    except ModuleNotFoundError:
        raise InputError("report: curves need the package matplotlib: pip install 'atkd-jax[report]'.") from None
    figure = Figure(figsize=(width_inches, width_inches * 2 / 3))
    axes = figure.subplots()
    for name, (places, values) in lines.items():
        shown = [value if value is not None and math.isfinite(value) else math.nan for value in values]
        # A line of one point is invisible without a mark.
        axes.plot(places, shown, label=_literal(name), linewidth=1.6, marker="o" if len(shown) == 1 else None)
    if is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.8)))
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.set_title(_literal(title), fontsize=11, loc="left")
    axes.set_xlabel(_literal(x), fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    _set_margins(figure, axes)
    stream = io.StringIO()
    # The same picture is the same text: no date in it, and no random names. Nor does it name any other address.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "atkd_jax"}):
        figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    return re.sub(r"<!DOCTYPE[^>]*>\s*", "", stream.getvalue(), count=1)


def _set_margins(figure: Figure, axes: Axes) -> None:
    """Leaves room for the letters around the axes. matplotlib's own layouts draw all of it several times to find it."""
    width, height = figure.get_size_inches()
    labels = axes.yaxis.get_major_formatter().format_ticks(list(axes.yaxis.get_majorticklocs()))
    labels += axes.yaxis.get_minor_formatter().format_ticks(list(axes.yaxis.get_minorticklocs()))
    longest = max(map(len, labels), default=0)
    left, right, bottom, top = 0.2 + 0.072 * longest, 0.2, 0.5, 0.3
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)


def _literal(text: str) -> str:
    """Keeps matplotlib from reading mathematics, and from hiding a line whose name starts with an underscore."""
    return (f" {text}" if text.startswith("_") else text).replace("$", r"\$")
