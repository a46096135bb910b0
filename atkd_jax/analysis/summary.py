"""A study's runs, put together cell by cell: spread over the seeds, and comparison with a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.paired import Comparison, Spread, compare, spread
from atkd_jax.analysis.results import Result
from atkd_jax.analysis.study_file import Study
from atkd_jax.errors import InputError

# What is tested against the reference; tokens a second depend on what else the machine does.
_SHARES = tuple(f"gradient_share_{part}" for part in ("target_kd", "diversity_kd", "easy", "hard"))
_SCORES = ("cross_entropy", "perplexity", "bits_per_byte", "forward_kl", "reverse_kl", "top1_agreement", "rouge_l")
COMPARED = (*_SCORES, *_SHARES)


class Summary(NamedTuple):
    """A cell over its seeds: the spread of each measure, and the comparison with its reference's."""

    name: str
    labels: Mapping[str, str]
    is_prepared: bool
    spreads: dict[str, Spread]
    reference: str | None
    comparisons: dict[str, Comparison]


def summarize(results: Sequence[Result], study: Study) -> list[Summary]:
    """Returns a summary of every cell, in order."""
    by_cell: dict[str, list[Result]] = {}
    for result in results:
        by_cell.setdefault(result.cell.name, []).append(result)
    values = {name: _by_seed(own) for name, own in by_cell.items()}
    summaries = []
    for name, own in by_cell.items():
        cell = own[0].cell
        reference = None if cell.is_prepared else reference_of(cell, study, {n: r[0].cell for n, r in by_cell.items()})
        against = values.get(reference or "", {})
        found = {
            measure: compare(seeds, against[measure])
            for measure, seeds in values[name].items()
            if measure in COMPARED and measure in against
        }
        spreads = {measure: spread(seeds) for measure, seeds in values[name].items()}
        comparisons = {measure: each for measure, each in found.items() if each is not None}
        summaries.append(Summary(name, cell.labels, cell.is_prepared, spreads, reference, comparisons))
    return summaries


def reference_of(cell: Cell, study: Study, cells: Mapping[str, Cell]) -> str | None:
    """Returns the name of the cell that one is compared with; None for none and for a reference itself."""
    given = study.reference
    if isinstance(given, dict):
        return given.get(cell.name)
    if given is None or given in cells:
        return given if given != cell.name else None
    # A choice of an axis: the cell that differs in that alone.
    for axis in cell.labels:
        wanted = {**cell.labels, axis: given}
        for name, other in cells.items():
            if dict(other.labels) == wanted and name != cell.name and not other.is_prepared:
                return name
    return None


def require_references(study: Study, cells: Sequence[Cell], path: Path) -> None:
    """Raises InputError where the study compares with, or draws, what it does not have."""
    axes = {axis for cell in cells for axis in cell.labels}
    for plot in study.plots:
        if plot.x not in axes:
            raise InputError(f"{path}: plots names the axis {plot.x!r}, but there are {', '.join(sorted(axes))}.")
    names = {cell.name for cell in cells}
    known = names | {label for cell in cells for label in cell.labels.values()}
    given = study.reference
    wanted = [*given, *given.values()] if isinstance(given, dict) else [given] if given else []
    for name in wanted:
        if name not in (names if isinstance(given, dict) else known):
            raise InputError(f"{path}: reference names {name!r}, but the cells are {', '.join(sorted(names))}.")


def _by_seed(results: Sequence[Result]) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for result in results:
        for name, value in result.measures.items():
            values.setdefault(name, {})[result.cell.seed] = value
    return values
