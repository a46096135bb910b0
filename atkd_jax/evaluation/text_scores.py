"""Numbers of sets of written texts: ROUGE-L to references, distinct n-grams, lengths."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from atkd_jax.evaluation.rouge import best_rouge_l

DISTINCT_SIZES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: Without special tokens.
        tokens: How many it wrote, the closing one included.
        is_closed: Whether it ended the text itself.
    """

    text: str
    tokens: int
    is_closed: bool


def distinct(texts: Sequence[str], size: int) -> float:
    """Returns distinct-n (Li et al., 2016, arXiv 1510.03055): different n-grams per n-gram in all texts, 0 to 1.

    Words are what white space parts, in lower case. Where no text is as long as an n-gram it is 0.

    Example:
        >>> distinct(["a b a", "A b"], 2)  # of "a b", "b a" and "a b", two differ
        0.6666666666666666
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.lower().split()
        grams += zip(*(words[start:] for start in range(size)), strict=False)
    return len(set(grams)) / len(grams) if grams else 0.0


def score_answers(answers: Sequence[Answer], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns the means of a set of answers: ROUGE-L, distinct-1 to -4, lengths, and the share that ended by itself."""
    texts = [answer.text for answer in answers]
    return {
        "rouge_l": statistics.fmean(best_rouge_l(text, own) for text, own in zip(texts, references, strict=True)),
        **{f"distinct_{size}": distinct(texts, size) for size in DISTINCT_SIZES},
        "mean_tokens": statistics.fmean(answer.tokens for answer in answers),
        "mean_words": statistics.fmean(len(text.split()) for text in texts),
        "closed": statistics.fmean(answer.is_closed for answer in answers),
    }


def spread_over_seeds(scores: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Returns each score's mean over seeds, and its sample standard deviation, None of a single seed."""
    return {
        name: {
            "mean": statistics.fmean(own[name] for own in scores),
            "std": statistics.stdev(own[name] for own in scores) if len(scores) > 1 else None,
        }
        for name in scores[0]
    }
