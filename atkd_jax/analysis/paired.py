"""Whether two cells differ by more than their seeds do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats


class Spread(NamedTuple):
    """Some seeds' values of one measure.

    Attributes:
        n: how many seeds.
        mean: of their values.
        deviation: the standard deviation over the seeds, with n - 1 below; None for one seed.
    """

    n: int
    mean: float
    deviation: float | None


class Comparison(NamedTuple):
    """A paired t-test.

    Attributes:
        n: how many seeds both have.
        mean_difference: of the value less the reference's, over them.
        t: mean difference over its standard error; None where there are fewer than two pairs, or all differ alike.
        p_value: two-sided, by Student's distribution with n - 1 degrees of freedom; None likewise.
    """

    n: int
    mean_difference: float
    t: float | None
    p_value: float | None


def spread(values: Mapping[int, float]) -> Spread:
    """Returns mean and standard deviation of values by seed.

    Example:
        >>> spread({0: 1.0, 1: 2.0, 2: 3.0})
        Spread(n=3, mean=2.0, deviation=1.0)
    """
    array = np.asarray(list(values.values()), np.float64)
    with np.errstate(invalid="ignore"):  # A run that diverged has no spread either.
        return Spread(len(array), float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None)


def compare(values: Mapping[int, float], reference: Mapping[int, float]) -> Comparison | None:
    """Returns the test of values against a reference's, seed by seed; None where they share no seed.

    What the seeds do to both alike drops out of the differences. With as few seeds as three the test sees large effects
    alone, and a p-value of one comparison among many is no proof.

    Args:
        values: By seed.
        reference: Likewise.
    """
    shared = sorted(values.keys() & reference.keys())
    if not shared:
        return None
    first, second = (np.asarray([each[seed] for seed in shared], np.float64) for each in (values, reference))
    with np.errstate(invalid="ignore"):
        differences = first - second
        mean = float(differences.mean())
    # Where all differ alike the test divides by nothing.
    if len(shared) < 2 or not np.isfinite(differences).all() or np.ptp(differences) == 0:
        return Comparison(len(shared), mean, None, None)
    found = stats.ttest_rel(first, second)
    t, p_value = float(found.statistic), float(found.pvalue)
    return Comparison(len(shared), mean, *((t, p_value) if math.isfinite(p_value) else (None, None)))
