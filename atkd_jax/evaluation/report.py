"""What an evaluation found: numbers, their JSON and their tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

TEACHER = "teacher"
# Equal intervals of confidence, as in Guo et al., 2017 (arXiv 1706.04599), section 3.
CALIBRATION_BINS = 15
OWN_TOKENS = (
    "Teacher and student have tokens of their own. Perplexities and accuracies are per token of each and do not "
    "compare; bits per byte are of the same text and do. KL to the teacher, top-1 agreement and deciles of the "
    "teacher's uncertainty do not exist between different vocabularies."
)


@dataclass(frozen=True)
class Scores:
    """One model's means over tokens.

    Attributes:
        cross_entropy: -log p(target), nats per token.
        forward_kl: KL(teacher || model), nats per token; None where the two have tokens of their own.
        reverse_kl: KL(model || teacher), nats per token; likewise.
        agreement: Share of tokens where the model's likeliest token is the teacher's; likewise.
        accuracy: Share of tokens where the model's likeliest token is the target.
        calibration_error: The expected calibration error, 0 to 1: the mean over tokens, grouped by the probability of
            the likeliest token into `CALIBRATION_BINS` equal intervals, of |a group's accuracy - its mean probability|.
        rouge_l: Of answers to prompts, 0 to 100; None where none were asked for.
        tokens: How many of the model's own tokens were counted, where models have tokens of their own; else None.
        bits_per_byte: -log2 p(responses) by their bytes of UTF-8, the closing tokens in the sum too; likewise.
    """

    cross_entropy: float
    forward_kl: float | None
    reverse_kl: float | None
    agreement: float | None
    accuracy: float
    calibration_error: float
    rouge_l: float | None = None
    tokens: int | None = None
    bits_per_byte: float | None = None

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
        """The scores as JSON can hold them: what there is none of is left out, and what is not finite becomes None."""
        values = {
            "perplexity": self.perplexity,
            "cross_entropy": self.cross_entropy,
            "forward_kl": self.forward_kl,
            "reverse_kl": self.reverse_kl,
            "top1_agreement": self.agreement,
            "top1_accuracy": self.accuracy,
            "expected_calibration_error": self.calibration_error,
            "rouge_l": self.rouge_l,
            "tokens": self.tokens,
            "bits_per_byte": self.bits_per_byte,
        }
        there = {name: value for name, value in values.items() if value is not None}
        return {name: value if math.isfinite(value) else None for name, value in there.items()}


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
    """The scores of the teacher and of the students, in the order of the table's columns.

    Attributes:
        counted_tokens: Of every model; where models have tokens of their own, of the students.
        scores: By name.
        deciles: Surest first; none where models have tokens of their own.
        text_bytes: Of the responses, where models have tokens of their own; else None.
    """

    counted_tokens: int
    scores: Mapping[str, Scores]
    deciles: tuple[Decile, ...] = ()
    text_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        own_tokens = {} if self.text_bytes is None else {"text_bytes": self.text_bytes, "note": OWN_TOKENS}
        return {
            **own_tokens,
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
    of_bytes = report.text_bytes is not None
    over = f"{report.text_bytes:,} bytes of responses" if of_bytes else f"{report.counted_tokens:,} response tokens"
    table = Table(title=title, caption=f"over {over}", title_justify="left")
    table.add_column("")
    for name in report.scores:
        table.add_column(name, justify="right")
    scores = report.scores.values()

    def add(title: str, form: str, values: Iterable[float | None]) -> None:
        cells = ["" if value is None else form.format(value) for value in values]
        if any(cells):
            table.add_row(title, *cells)

    add("response tokens", "{:,}", (own.tokens for own in scores))
    table.add_row(
        "perplexity, of own tokens" if of_bytes else "perplexity", *(_short(own.perplexity) for own in scores)
    )
    add("bits per byte", "{:.4f}", (own.bits_per_byte for own in scores))
    add("forward KL to the teacher", "{:.4f}", (own.forward_kl for own in scores))
    add("reverse KL to the teacher", "{:.4f}", (own.reverse_kl for own in scores))
    add("top-1 agreement", "{:.1%}", (own.agreement for own in scores))
    add("top-1 accuracy", "{:.1%}", (own.accuracy for own in scores))
    add("calibration error", "{:.4f}", (own.calibration_error for own in scores))
    add("ROUGE-L", "{:.2f}", (own.rouge_l for own in scores))
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
