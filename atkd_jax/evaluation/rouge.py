"""ROUGE-L of answers, by the rouge-score package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atkd_jax.errors import InputError


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Returns the mean F-measure of the longest common subsequences of words, stemmed, from 0 to 100.

    Args:
        answers: One per example.
        references: What each is compared with.

    Raises:
        InputError: The package is not installed.
        ValueError: There are not as many answers as references, or none.

    Reference: Lin 2004, section 3; with stemming and in hundredths as MiniLLM's evaluation (arXiv 2306.08543) has it.

    Example:
        >>> rouge_l(["the cat sat", "no"], ["the cats sat down", "yes"])  # (2 * 3 / (3 + 4) + 0) / 2
        42.857142857142854
    """
    if len(answers) != len(references) or not answers:
        raise ValueError(f"rouge_l: needs as many answers as references, got {len(answers)} and {len(references)}")
    return sum(best_rouge_l(*pair) for pair in zip(answers, [[own] for own in references], strict=True)) / len(answers)


def best_rouge_l(answer: str, references: Sequence[str]) -> float:
    """Returns an answer's largest such F-measure over references that are equally good; see `rouge_l`.

    Example:
        >>> round(best_rouge_l("the cats sat", ["the cat sat down", "no"]), 2)  # 3 of 3 words, 3 of 4 words
        85.71
    """
    return 100.0 * max(_scorer().score(reference, answer)["rougeL"].fmeasure for reference in references)


def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise InputError(
            "evaluation: ROUGE-L needs the package rouge-score; `pip install 'atkd-jax[evaluate]'`."
        ) from None
    return RougeScorer(["rougeL"], use_stemmer=True)
