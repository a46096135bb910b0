"""Strings that end an answer, found in its text: a string may begin and end within tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atkd_jax.errors import InputError


def stop_at(strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> Callable[[Sequence[int]], int | None]:
    """Return a function that says after how many of its tokens an answer holds one of the strings; None if it does not.

    Args:
        strings: none of them empty.
        decode: token ids -> text.

    Raises:
        InputError: where a string is empty.
    """
    if not all(strings):
        raise InputError("generate: a stop string must not be empty, got ''; every text holds that, so leave it out.")

    def holds_one(tokens: Sequence[int]) -> bool:
        text = decode(tokens)
        return any(string in text for string in strings)

    def end_of(tokens: Sequence[int]) -> int | None:
        if not holds_one(tokens):
            return None
        # Whatever follows a string leaves it in the text, so that halving finds the first token that completes one.
        without, with_one = 0, len(tokens)
        while with_one - without > 1:
            middle = (without + with_one) // 2
            without, with_one = (without, middle) if holds_one(tokens[:middle]) else (middle, with_one)
        return with_one

    return end_of


def cut_at(text: str, strings: Sequence[str]) -> str:
    """Return the text before the first of the strings in it."""
    places = [place for place in map(text.find, strings) if place >= 0]
    return text[: min(places, default=len(text))]
