import numpy as np
import pytest
from scipy import stats

from atkd_jax.analysis.claims import judge_claims, require_claims
from atkd_jax.analysis.results import Result
from atkd_jax.errors import InputError

SIZES = ("s", "m", "l")
# Perplexity by cell and size, and what each seed adds; no two seeds differ alike.
LEVELS = {"kd": (10.0, 11.0, 13.0), "atkd": (9.0, 9.2, 9.3)}
NOISE = (0.0, 0.3, -0.1)


def claim(**changes):
    return {"name": "c", "sentence": "It is so.", "cells": ["kd"]} | changes


@pytest.fixture
def judged(cells_of):
    """The verdicts on some claims about two methods beside three teachers, over three seeds."""

    def make(*claims, without=(), noise=NOISE):
        grid = {"teacher": {size: {"training.steps": 2} for size in SIZES}}
        tree = {"cells": {"kd": {}, "atkd": {}}, "grid": grid, "seeds": [0, 1, 2], "prepared": {"t": {}}}
        study, cells = cells_of(**tree, claims=list(claims))
        require_claims(study, cells, "s.yaml")
        results = []
        for cell in cells:
            if cell.is_prepared or cell.key in without:
                continue
            place = SIZES.index(cell.labels["teacher"])
            is_kd = cell.labels["cell"] == "kd"
            wobble = noise[cell.seed] * (1 + 0.3 * place * (1 + is_kd) + is_kd)
            level = LEVELS[cell.labels["cell"]][place] + wobble
            results.append(Result(cell, {"perplexity": level}, {}, 1.0))
        return judge_claims(study, cells, results)

    return make


def numbers(cell, *, noise=NOISE):
    """`[seeds, sizes]` of a method's perplexities."""
    places = np.arange(3)
    is_kd = cell == "kd"
    return np.array([np.array(LEVELS[cell]) + each * (1 + 0.3 * places * (1 + is_kd) + is_kd) for each in noise])


def test_cells_are_compared_seed_by_seed_over_all_that_have_the_labels(judged):
    lower, higher = judged(
        claim(cells=["atkd"], expect="lower", than=["kd"]), claim(cells=["atkd"], expect="higher", than=["kd"])
    )
    expected = stats.ttest_rel(numbers("atkd").mean(1), numbers("kd").mean(1))
    assert (lower.verdict, higher.verdict) == ("seen", "not seen")
    assert lower.comparison.p_value == pytest.approx(expected.pvalue)
    assert lower.tested == "perplexity, atkd less kd's: lower"
    (one,) = judged(claim(cells=["atkd", "l"], expect="lower", than=["kd", "l"]))
    assert one.comparison.mean_difference == pytest.approx((numbers("atkd") - numbers("kd"))[:, 2].mean())


def test_growth_is_the_slope_along_an_axis(judged):
    grows, falls, repaired = judged(
        claim(expect="grows", along="teacher"),
        claim(expect="falls", along="teacher"),
        claim(cells=["atkd"], expect="lower", than=["kd"], along="teacher"),
    )
    slopes = {cell: [np.polyfit(range(3), own, 1)[0] for own in numbers(cell)] for cell in LEVELS}
    assert grows.comparison.mean_difference == pytest.approx(np.mean(slopes["kd"]))
    assert grows.comparison.p_value == pytest.approx(stats.ttest_1samp(slopes["kd"], 0).pvalue)
    assert (grows.verdict, falls.verdict, repaired.verdict) == ("seen", "not seen", "seen")
    assert repaired.comparison.p_value == pytest.approx(stats.ttest_rel(slopes["atkd"], slopes["kd"]).pvalue)


def test_what_the_test_does_not_separate_is_unclear(judged):
    own = claim(cells=["atkd", "s"], expect="lower", than=["kd", "s"])
    (found,) = judged(own, noise=(3.0, -2.0, 0.5))
    assert found.comparison.p_value > 0.05
    assert (found.verdict, found.why) == ("unclear", "")
    (found,) = judged(own, noise=(0.0, 0.0, 0.0))
    assert (found.verdict, found.why) == ("unclear", "all seeds differ alike, or a number is not finite")


def test_a_seed_counts_where_all_of_its_cells_have_finished(judged):
    own = claim(cells=["atkd"], expect="lower", than=["kd"])
    (found,) = judged(own, without={"kd,m/1"})
    assert found.comparison.n == 2
    (found,) = judged(own, without={"kd,m/1", "atkd,l/2"})
    assert (found.verdict, found.why) == ("unclear", "one seed alone has all of its cells finished")
    (found,) = judged(own, without={f"kd,s/{seed}" for seed in range(3)})
    assert (found.verdict, found.comparison) == ("unclear", None)
    assert found.why == "no seed has all of its cells finished"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cells": ["sft"], "expect": "lower", "than": ["kd"]}, r"claim 'c': no cell has all of cells=\['sft'\]"),
        ({"cells": ["t"], "expect": "lower", "than": ["kd"]}, r"no cell has all of cells=\['t'\]"),
        ({"expect": "lower", "than": ["kd", "atkd"]}, r"no cell has all of than=\['kd', 'atkd'\]"),
        (
            {"expect": "grows", "along": "size"},
            r"along=size must be an axis on which \['kd'\] have at least two places",
        ),
        ({"cells": ["kd", "s"], "expect": "grows", "along": "teacher"}, r"but they have 1\."),
    ],
)
def test_a_claim_is_about_cells_that_are_there(judged, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        judged(claim(**changes))
