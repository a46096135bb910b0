"""What an evaluation found: numbers, their JSON and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

TEACHER = "teacher"


@dataclass(frozen=True)
class Scores:
    """One model's means over the counted tokens.

    Attributes:
        cross_entropy: -log p(target), nats per token.
        forward_kl: KL(teacher || model), nats per token.
        reverse_kl: KL(model || teacher), nats per token.
        agreement: Share of tokens where the model's likeliest token is the teacher's.
        rouge_l: Of answers to prompts, 0 to 100; None where none were asked for.
    """

    cross_entropy: float
    forward_kl: float
    reverse_kl: float
    agreement: float
    rouge_l: float | None = None

    @property
    def perplexity(self) -> float:
        """exp of the cross-entropy of the data, and of nothing else.

        Example:
            >>> round(Scores(cross_entropy=2.0, forward_kl=0.0, reverse_kl=0.0, agreement=1.0).perplexity, 4)
            7.3891
        """
        try:
            return math.exp(self.cross_entropy)
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Report:
    """The scores of the teacher and of the students, in the order of the table's columns."""

    counted_tokens: int
    scores: Mapping[str, Scores]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it; a number that is not finite becomes None."""
        return {
            "counted_tokens": self.counted_tokens,
            "models": {
                name: {
                    "perplexity": _finite(own.perplexity),
                    "cross_entropy": _finite(own.cross_entropy),
                    "forward_kl": _finite(own.forward_kl),
                    "reverse_kl": _finite(own.reverse_kl),
                    "top1_agreement": _finite(own.agreement),
                }
                | ({} if own.rouge_l is None else {"rouge_l": own.rouge_l})
                for name, own in self.scores.items()
            },
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
    if any(own.rouge_l is not None for own in scores):
        table.add_row("ROUGE-L", *("" if own.rouge_l is None else f"{own.rouge_l:.2f}" for own in scores))
    return table


def _short(value: float) -> str:
    """1,234,567 or 18.3: what is large needs no fraction."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
