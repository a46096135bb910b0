"""Whether what a study claims was seen in what its cells measured, by a rule that is fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.paired import Comparison, compare
from atkd_jax.analysis.results import Result
from atkd_jax.analysis.study_file import Claim, Study
from atkd_jax.errors import InputError

LEVEL = 0.05
SEEN, NOT_SEEN, UNCLEAR = "seen", "not seen", "unclear"
RULE = (
    f"Seen: a two-sided paired t-test over the seeds has p < {LEVEL} in the claim's direction. Not seen: p < {LEVEL} "
    "in the other direction. Unclear: the test does not separate them, or there is none, for want of cells or of "
    "seeds. A seed's number is the mean of the measure over the claim's cells, or the slope of a straight line through "
    "it along an axis, per step of the axis; less that of the cells it is compared with, or less 0. p is not corrected "
    "for how many claims there are."
)

BySeed = dict[int, float]


class Verdict(NamedTuple):
    """What came of a claim.

    Attributes:
        name: of the claim.
        sentence: what it says.
        verdict: seen, not seen, or unclear.
        measure: that was compared.
        tested: which number of which cells was tested, in words.
        comparison: the paired test; None where no seed has all cells.
        why: what kept the test from being made; empty where it was.
    """

    name: str
    sentence: str
    verdict: str
    measure: str
    tested: str
    comparison: Comparison | None
    why: str


def judge_claims(study: Study, cells: Sequence[Cell], results: Sequence[Result]) -> list[Verdict]:
    """Returns the verdict on each of the study's claims, in order.

    Args:
        study: The study.
        cells: All of its cells, whether they have finished or not.
        results: Of those that have.
    """
    values: dict[str, dict[str, BySeed]] = {}
    for result in results:
        for measure, value in result.measures.items():
            values.setdefault(measure, {}).setdefault(result.cell.name, {})[result.cell.seed] = value
    return [_judge(claim, cells, values.get(claim.measure, {})) for claim in study.claims]


def require_claims(study: Study, cells: Sequence[Cell], path: Path) -> None:
    """Raises InputError where a claim is about cells or an axis that the study does not have."""
    for claim in study.claims:
        where = f"{path}, claim {claim.name!r}"
        for key, names in (("cells", claim.cells), ("than", claim.than)):
            if names and not _selected(cells, names):
                known = dict.fromkeys(label for cell in _grid(cells) for label in (cell.name, *cell.labels.values()))
                raise InputError(f"{where}: no cell has all of {key}={list(names)}; there are {', '.join(known)}.")
        if claim.along is None:
            continue
        for names in (claim.cells, claim.than):
            places = {cell.labels.get(claim.along) for cell in _selected(cells, names)}
            if names and (None in places or len(places) < 2):
                raise InputError(
                    f"{where}: along={claim.along} must be an axis on which {list(names)} have at least two places, "
                    f"but they have {len(places - {None})}."
                )


def _judge(claim: Claim, cells: Sequence[Cell], values: Mapping[str, BySeed]) -> Verdict:
    own = _statistic(claim, _selected(cells, claim.cells), values)
    other = _statistic(claim, _selected(cells, claim.than), values) if claim.than else dict.fromkeys(own, 0.0)
    found = compare(own, other)
    verdict, why = UNCLEAR, ""
    if found is None:
        why = "no seed has all of its cells finished"
    elif found.n < 2:
        why = "one seed alone has all of its cells finished"
    elif found.p_value is None:
        why = "all seeds differ alike, or a number is not finite"
    elif found.p_value < LEVEL:
        is_up = found.mean_difference > 0
        verdict = SEEN if is_up == (claim.expect in ("higher", "grows")) else NOT_SEEN
    return Verdict(claim.name, claim.sentence, verdict, claim.measure, _in_words(claim), found, why)


def _statistic(claim: Claim, cells: Sequence[Cell], values: Mapping[str, BySeed]) -> BySeed:
    """The number of each seed for which every one of these cells has finished."""
    names = list(dict.fromkeys(cell.name for cell in cells))
    seeds = set.intersection(*(set(values.get(name, {})) for name in names)) if names else set()
    if claim.along is None:
        return {seed: float(np.mean([values[name][seed] for name in names])) for seed in sorted(seeds)}
    place_of = {cell.name: cell.labels[claim.along] for cell in cells}
    order = list(dict.fromkeys(place_of.values()))
    steps = np.array([order.index(place_of[name]) for name in names], np.float64)
    steps -= steps.mean()
    found = {}
    for seed in sorted(seeds):
        measured = np.array([values[name][seed] for name in names])
        with np.errstate(invalid="ignore"):  # A run that diverged has no slope.
            found[seed] = float(steps @ measured / (steps @ steps))
    return found


def _grid(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if not cell.is_prepared]


def _selected(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of the grid that have all of these labels, or are called so."""
    return [cell for cell in _grid(cells) if set(names) <= {cell.name, *cell.labels.values()}]


def _in_words(claim: Claim) -> str:
    def of(names: Sequence[str]) -> str:
        return " ".join(names)

    what = claim.measure.replace("_", " ")
    if claim.along is not None:
        what = f"slope of {what} along {claim.along}"
    than = f" less {of(claim.than)}'s" if claim.than else ""
    return f"{what}, {of(claim.cells)}{than}: {claim.expect}"
