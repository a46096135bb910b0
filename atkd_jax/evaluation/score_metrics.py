"""How well a scorer agrees with the scores that people gave, what it costs, and the table of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from atkd_jax.errors import InputError

_TIMED_CALLS = 20


class ScoreMetrics(NamedTuple):
    """Of one scorer.

    Attributes:
        accuracy: share of answers with the right score.
        macro_f1: the mean over scores of each one's F1.
        kappa: Cohen's kappa with quadratic weights; 0 where both give one and the same score throughout.
        parameters: of the model.
        milliseconds: the median time of one answer, encoding included.
    """

    accuracy: float
    macro_f1: float
    kappa: float
    parameters: int
    milliseconds: float


def score_metrics(*, scores: np.ndarray, guesses: np.ndarray, parameters: int, milliseconds: float) -> ScoreMetrics:
    """Returns the metrics of guesses, by scikit-learn's definitions.

    Args:
        scores: int `[answers]`, given by people.
        guesses: int `[answers]`, given by the model.
        parameters: passed on.
        milliseconds: passed on.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
    except ImportError:
        raise InputError("Measuring scores needs scikit-learn: pip install 'atkd-jax[neighbours]'.") from None
    without_warning: Any = {"average": "macro", "zero_division": 0}
    # Where both are constant and alike, kappa is 0 / 0.
    is_constant = len({*scores.tolist(), *guesses.tolist()}) == 1
    return ScoreMetrics(
        accuracy=float(accuracy_score(scores, guesses)),
        macro_f1=float(f1_score(scores, guesses, **without_warning)),
        kappa=0.0 if is_constant else float(cohen_kappa_score(scores, guesses, weights="quadratic")),
        parameters=parameters,
        milliseconds=milliseconds,
    )


def median_milliseconds(answer_one: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the median time of a call, after one that is not counted and may compile."""
    answer_one()
    times = []
    for _ in range(_TIMED_CALLS):
        began = clock()
        answer_one()
        times.append(clock() - began)
    return 1000 * statistics.median(times)


def scores_table(metrics: Mapping[str, ScoreMetrics], *, title: str) -> Table:
    """Returns the scorers side by side."""
    table = Table("", *metrics, title=title, title_justify="left")
    rows: dict[str, Callable[[ScoreMetrics], str]] = {
        "accuracy": lambda each: f"{each.accuracy:.1%}",
        "macro F1": lambda each: f"{each.macro_f1:.3f}",
        "quadratic weighted kappa": lambda each: f"{each.kappa:.3f}",
        "parameters": lambda each: f"{each.parameters:,}",
        "ms an answer": lambda each: f"{each.milliseconds:.2f}",
    }
    for name, text in rows.items():
        table.add_row(name, *map(text, metrics.values()))
    return table
