"""What has gone through a stream of batches, for the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from atkd_jax.data.encoding import EncodedExample


@dataclass(frozen=True)
class Counts:
    """Running totals; adding two gives the totals of both.

    Attributes:
        examples: in the batches that were handed out.
        truncated: examples that were read and lost their end. Some of them may still wait in an open row.
        dropped: examples that were read and left out, because they were too long or held no target.
        rows: in the batches that were handed out, empty ones included.
        tokens: in those rows, padding not counted.
        target_tokens: in those rows, where the loss mask is true.
    """

    examples: int = 0
    truncated: int = 0
    dropped: int = 0
    rows: int = 0
    tokens: int = 0
    target_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def fill(self, sequence_length: int) -> float:
        """Returns the share of the rows' places that hold a token, in 0..1; 0 before the first row."""
        return self.tokens / (self.rows * sequence_length) if self.rows else 0.0


def counts_of_row(examples: Sequence[EncodedExample]) -> Counts:
    """Returns what one row adds when it is handed out."""
    return Counts(
        examples=len(examples),
        rows=1,
        tokens=sum(len(example.tokens) for example in examples),
        target_tokens=sum(int(example.loss_mask.sum()) for example in examples),
    )


def total(counts: Iterable[Counts]) -> Counts:
    """Returns the sum."""
    return sum(counts, start=Counts())
