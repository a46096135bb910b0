import math

import numpy as np
import pytest
from scipy import stats

from atkd_jax.analysis.paired import compare, spread

ONE = {0: 3.1, 1: 2.9, 2: 3.4, 3: 3.0}
OTHER = {0: 3.0, 1: 2.7, 2: 3.35, 3: 3.05}


def test_the_spread_is_that_of_a_sample():
    found = spread(ONE)
    assert found.n == 4
    assert found.mean == pytest.approx(12.4 / 4)
    assert found.deviation == pytest.approx(np.std(list(ONE.values()), ddof=1))
    assert spread({7: 2.0}) == (1, 2.0, None)


def test_the_test_is_a_t_test_on_the_differences_by_hand():
    found = compare(ONE, OTHER)
    differences = [ONE[seed] - OTHER[seed] for seed in ONE]
    mean = sum(differences) / 4
    error = math.sqrt(sum((each - mean) ** 2 for each in differences) / 3 / 4)
    assert (found.n, found.mean_difference) == (4, pytest.approx(mean))
    assert found.t == pytest.approx(mean / error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean / error), 3))


def test_seeds_are_paired_by_their_number_and_only_those_that_both_have_count():
    shuffled = {3: 3.05, 2: 3.35, 9: 100.0, 0: 3.0, 1: 2.7}
    assert compare(ONE, shuffled) == compare(ONE, OTHER)
    assert compare({1: 1.0, 2: 4.0}, {2: 3.0}) == (1, 1.0, None, None)
    assert compare({1: 1.0}, {2: 3.0}) is None


def test_what_always_differs_alike_has_no_test():
    assert compare({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}) == (2, 0.5, None, None)
    assert compare({0: math.inf, 1: 2.0}, {0: 1.0, 1: 1.5}).p_value is None
