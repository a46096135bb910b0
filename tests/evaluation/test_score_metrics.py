import io

import numpy as np
import pytest
from rich.console import Console

from atkd_jax.evaluation.score_metrics import ScoreMetrics, median_milliseconds, score_metrics, scores_table


def test_kappa_accuracy_and_f1_are_their_sums():
    rng = np.random.default_rng(0)
    scores, guesses = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    guesses[:30] = scores[:30]
    found = score_metrics(scores=scores, guesses=guesses, parameters=1, milliseconds=2.0)
    assert found.accuracy == pytest.approx(np.mean(scores == guesses))
    f1 = []
    for score in range(4):
        right = np.sum((scores == score) & (guesses == score))
        f1.append(2 * right / (np.sum(scores == score) + np.sum(guesses == score)))
    assert found.macro_f1 == pytest.approx(np.mean(f1))
    observed = np.mean((scores - guesses) ** 2)
    by_chance = np.mean((scores[:, None] - guesses[None, :]) ** 2)
    assert found.kappa == pytest.approx(1 - observed / by_chance)


def test_one_score_throughout_has_no_kappa():
    same = np.array([2, 2, 2])
    assert score_metrics(scores=same, guesses=same, parameters=1, milliseconds=1.0).kappa == 0.0


def test_the_median_leaves_the_first_call_out():
    times, calls = iter([*range(200)]), []
    assert median_milliseconds(lambda: calls.append(1), clock=lambda: next(times)) == 1000.0
    assert len(calls) == 21


def test_scorers_stand_side_by_side():
    out = io.StringIO()
    table = {"teacher": ScoreMetrics(0.5, 0.4, 0.3, 1000, 2.0), "student": ScoreMetrics(0.25, 0.2, 0.1, 10, 1.0)}
    Console(file=out, width=120).print(scores_table(table, title="set, test"))
    assert {"teacher", "student", "50.0%", "25.0%", "1,000"} <= set(
        out.getvalue().replace("│", " ").replace("┃", " ").split()
    )
