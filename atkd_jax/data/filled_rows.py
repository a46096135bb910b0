"""Rows filled with examples in the order of their numbers, for a pass that sees each of them once."""

from __future__ import annotations

from collections.abc import Sequence

from atkd_jax.data.encoding import EncodedExample, EncodedExamples


def filled_rows(
    encoded: EncodedExamples, numbers: Sequence[int], *, row_count: int, sequence_length: int, packing: bool
) -> tuple[list[list[EncodedExample]], int]:
    """Returns rows with as many of the examples, from the first on, as fit, and how many of the numbers that were.

    An example goes into the first row with room for it; the first that fits nowhere ends the rows. Those that are
    dropped take no room and are counted.

    Args:
        encoded: examples by number.
        numbers: of the examples that are wanted.
        row_count: how many rows there are.
        sequence_length: tokens in a row.
        packing: whether examples share a row.
    """
    rows: list[list[EncodedExample]] = [[] for _ in range(row_count)]
    room = [sequence_length] * row_count
    for done, number in enumerate(numbers):
        example = encoded[number]
        if example is None:
            continue
        needed = len(example.tokens) if packing else sequence_length
        row = next((row for row in range(row_count) if room[row] >= needed), None)
        if row is None:
            return rows, done
        rows[row].append(example)
        room[row] -= needed
    return rows, len(numbers)
