"""Sums of per-token numbers as they stream by, in constant memory: over all tokens, and by the teacher's uncertainty.

Tokens are kept apart by the teacher's -log p(target), which rises with UNC = 1 - p(target) and tells tokens apart where
1 - p has no digits left. Its scale is cut into 256 steps between each power of two and the next, from 2^-33 to 2^15,
so that tokens of one step differ by at most 1/256 of it. A decile is a tenth of the tokens in this order; the tokens of
a step that lies across a border count on both sides, by the shares of the step. Tokens that are alike are therefore
treated alike, and no number depends on the order in which batches come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atkd_jax.evaluation.metric_step import TokenMetrics
from atkd_jax.evaluation.report import CALIBRATION_BINS, Decile, Report, Scores

DECILES = 10
_STEPS_PER_OCTAVE = 256
_LOWEST_EXPONENT, _OCTAVES = -32, 48
_STEPS = _OCTAVES * _STEPS_PER_OCTAVE
_MEANS = [name for name in TokenMetrics._fields if name != "confidence"]


class TokenSums:
    """The sums of a teacher, named first, and of students.

    Args:
        models: Their names.
    """

    def __init__(self, models: Sequence[str]):
        self._models = list(models)
        self._counts = np.zeros(_STEPS, np.int64)
        self._uncertainty = np.zeros(_STEPS)
        self._sums = np.zeros((_STEPS, len(models), len(_MEANS)))
        # Of each step, model and interval of confidence: tokens, confidence, hits.
        self._calibration = np.zeros((_STEPS, len(models), CALIBRATION_BINS, 3))

    @property
    def counted_tokens(self) -> int:
        """How many tokens were added."""
        return int(self._counts.sum())

    def add(self, metrics: np.ndarray) -> None:
        """Adds tokens; `metrics` is float32 `[models, fields of TokenMetrics, tokens]`."""
        fields = TokenMetrics(*np.moveaxis(metrics.astype(np.float64), 1, 0))  # pyright: ignore[reportArgumentType] (NumPy's arrays here)
        teacher_cross_entropy = np.asarray(fields.cross_entropy)[0]
        steps = _steps(teacher_cross_entropy)
        np.add.at(self._counts, steps, 1)
        np.add.at(self._uncertainty, steps, -np.expm1(-teacher_cross_entropy))
        np.add.at(self._sums, steps, np.stack([getattr(fields, name).T for name in _MEANS], axis=-1))
        confidence, accuracy = np.asarray(fields.confidence).T, np.asarray(fields.accuracy).T
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(int)
        places = steps[:, None], np.arange(len(self._models))[None], bins
        np.add.at(self._calibration, places, np.stack([np.ones_like(confidence), confidence, accuracy], axis=-1))

    def report(self) -> Report:
        """Returns the means, at least one token having been added."""
        shares = _decile_shares(self._counts)
        deciles = []
        for own in shares:
            held = np.flatnonzero(own)
            tokens = self.counted_tokens / DECILES
            deciles.append(
                Decile(
                    tokens=tokens,
                    unc_from=_uncertainty_from(held[0]),
                    unc_to=_uncertainty_from(held[-1] + 1),
                    mean_unc=float(own @ self._uncertainty) / tokens,
                    scores=self._scores(own, tokens),
                )
            )
        return Report(self.counted_tokens, self._scores(np.ones(_STEPS), self.counted_tokens), tuple(deciles))

    def _scores(self, shares: np.ndarray, tokens: float) -> dict[str, Scores]:
        held = np.flatnonzero((shares > 0) & (self._counts > 0))
        means = np.tensordot(shares[held], self._sums[held], axes=1) / tokens
        calibration = np.tensordot(shares[held], self._calibration[held], axes=1)
        errors = np.abs(calibration[..., 1] - calibration[..., 2]).sum(axis=-1) / tokens
        named: list[dict[str, Any]] = [dict(zip(_MEANS, map(float, row), strict=True)) for row in means]
        return {
            name: Scores(**own, calibration_error=float(error))
            for name, own, error in zip(self._models, named, errors, strict=True)
        }


def _steps(cross_entropy: np.ndarray) -> np.ndarray:
    """The step of each token's -log p(target): int `[tokens]`; what is no number counts as the largest."""
    mantissa, exponent = np.frexp(np.nan_to_num(np.maximum(cross_entropy, 0.0), nan=1e38, posinf=1e38))
    fraction = np.floor((np.maximum(mantissa, 0.5) - 0.5) * 2 * _STEPS_PER_OCTAVE).astype(int)
    steps = (exponent - _LOWEST_EXPONENT) * _STEPS_PER_OCTAVE + fraction
    return np.where(mantissa > 0, np.clip(steps, 0, _STEPS - 1), 0)


def _uncertainty_from(step: int) -> float:
    """The UNC at which a step begins."""
    if step == 0:
        return 0.0
    octave, part = divmod(int(step), _STEPS_PER_OCTAVE)
    cross_entropy = 2.0 ** (octave + _LOWEST_EXPONENT - 1) * (1 + part / _STEPS_PER_OCTAVE)
    return float(-np.expm1(-cross_entropy))


def _decile_shares(counts: np.ndarray) -> np.ndarray:
    """The share of each step's tokens that each decile has: float `[deciles, steps]`."""
    ends = np.cumsum(counts)
    borders = np.linspace(0, ends[-1], DECILES + 1)[:, None]
    overlap = np.minimum(ends, borders[1:]) - np.maximum(ends - counts, borders[:-1])
    return np.maximum(overlap, 0) / np.maximum(counts, 1)
