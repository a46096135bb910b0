"""What an evaluation found: numbers, their JSON and their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

TEACHER = "teacher"
# Equal intervals of confidence, as in Guo et al., 2017 (arXiv 1706.04599), section 3.
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """One model's means over tokens.

    Attributes:
        cross_entropy: -log p(target), nats per token.
        forward_kl: KL(teacher || model), nats per token.
        reverse_kl: KL(model || teacher), nats per token.
        agreement: Share of tokens where the model's likeliest token is the teacher's.
        accuracy: Share of tokens where the model's likeliest token is the target.
        calibration_error: The expected calibration error, 0 to 1: the mean over tokens, grouped by the probability of
            the likeliest token into `CALIBRATION_BINS` equal intervals, of |a group's accuracy - its mean probability|.
        rouge_l: Of answers to prompts, 0 to 100; None where none were asked for.
    """

    cross_entropy: float
    forward_kl: float
    reverse_kl: float
    agreement: float
    accuracy: float
    calibration_error: float
    rouge_l: float | None = None

    @property
    def perplexity(self) -> float:
        """exp of the cross-entropy of the data, and of nothing else.

        Example:
            >>> round(Scores(2.0, 0.0, 0.0, agreement=1.0, accuracy=0.5, calibration_error=0.1).perplexity, 4)
            7.3891
        """
        try:
            return math.exp(self.cross_entropy)
        except OverflowError:
            return math.inf

    def to_json(self) -> dict[str, float | None]:
        """The scores as JSON can hold them; a number that is not finite becomes None."""
        values = {
            "perplexity": self.perplexity,
            "cross_entropy": self.cross_entropy,
            "forward_kl": self.forward_kl,
            "reverse_kl": self.reverse_kl,
            "top1_agreement": self.agreement,
            "top1_accuracy": self.accuracy,
            "expected_calibration_error": self.calibration_error,
        }
        if self.rouge_l is not None:
            values["rouge_l"] = self.rouge_l
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Decile:
    """A tenth of the tokens, by the teacher's UNC = 1 - p(target).

    Attributes:
        tokens: How many; a tenth of all, which need not be whole.
        unc_from: The least UNC, to 1/256 of -log p(target).
        unc_to: The largest, likewise.
        mean_unc: The mean.
        scores: Of every model over these tokens.
    """

    tokens: float
    unc_from: float
    unc_to: float
    mean_unc: float
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Report:
    """The scores of the teacher and of the students, in the order of the table's columns; the deciles, surest first."""

    counted_tokens: int
    scores: Mapping[str, Scores]
    deciles: tuple[Decile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "counted_tokens": self.counted_tokens,
            "calibration_bins": CALIBRATION_BINS,
            "models": {name: own.to_json() for name, own in self.scores.items()},
            "unc_deciles": [
                {
                    "tokens": decile.tokens,
                    "unc_from": decile.unc_from,
                    "unc_to": decile.unc_to,
                    "mean_unc": decile.mean_unc if math.isfinite(decile.mean_unc) else None,
                    "models": {name: own.to_json() for name, own in decile.scores.items()},
                }
                for decile in self.deciles
            ],
        }


def render_table(report: Report, *, title: str) -> Table:
    """A table with a column per model and a row per measure."""
    table = Table(title=title, caption=f"over {report.counted_tokens:,} response tokens", title_justify="left")
    table.add_column("")
    for name in report.scores:
        table.add_column(name, justify="right")
    scores = report.scores.values()
    table.add_row("perplexity", *(_short(own.perplexity) for own in scores))
    table.add_row("forward KL to the teacher", *(f"{own.forward_kl:.4f}" for own in scores))
    table.add_row("reverse KL to the teacher", *(f"{own.reverse_kl:.4f}" for own in scores))
    table.add_row("top-1 agreement", *(f"{own.agreement:.1%}" for own in scores))
    table.add_row("top-1 accuracy", *(f"{own.accuracy:.1%}" for own in scores))
    table.add_row("calibration error", *(f"{own.calibration_error:.4f}" for own in scores))
    if any(own.rouge_l is not None for own in scores):
        table.add_row("ROUGE-L", *("" if own.rouge_l is None else f"{own.rouge_l:.2f}" for own in scores))
    return table


def render_deciles(report: Report, name: str) -> Table:
    """One model's table with a row per decile of the teacher's UNC."""
    tokens = report.counted_tokens / max(len(report.deciles), 1)
    table = Table(
        title=f"{name}, by the teacher's UNC", caption=f"{tokens:,.1f} response tokens a row", title_justify="left"
    )
    for heading in ("UNC from", "to", "perplexity", "forward KL", "reverse KL", "agreement", "calibration"):
        table.add_column(heading, justify="right")
    for decile in report.deciles:
        own = decile.scores[name]
        table.add_row(
            f"{decile.unc_from:.2g}",
            f"{decile.unc_to:.2g}",
            _short(own.perplexity),
            f"{own.forward_kl:.4f}",
            f"{own.reverse_kl:.4f}",
            f"{own.agreement:.1%}",
            f"{own.calibration_error:.4f}",
        )
    return table


def _short(value: float) -> str:
    """1,234,567 or 18.3: what is large needs no fraction."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
