"""Split specifications such as `train[:90%]`, for sources that TFDS does not cut itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from atkd_jax.errors import InputError

_SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def split_range(spec: str, lengths: Mapping[str, int], *, source: str) -> tuple[str, range]:
    """Returns the name of the split and the indices in it that a specification stands for, as TFDS reads them.

    `train`, `train[:90%]`, `train[90%:]`, `train[100:200]` and `train[-10%:]` are understood; a share is rounded to
    the nearest whole example, so that `[:90%]` and `[90%:]` always part the split.

    Args:
        spec: the specification.
        lengths: examples in each split that is there.
        source: names the data set in an error.

    Raises:
        InputError: the specification is not understood, or the split is not there.

    Example:
        >>> split_range("train[90%:]", {"train": 50}, source="data.jsonl")
        ('train', range(45, 50))
    """
    match = _SPLIT.fullmatch(spec)
    if match is None:
        raise InputError(
            f"The split {spec!r} of {source} is not understood: write a name or a slice of it, such as 'train' or "
            "'train[:90%]'."
        )
    name = match["name"]
    if name not in lengths:
        there = ", ".join(map(repr, lengths))
        raise InputError(
            f"{source} has no split {name!r}: there is {there}, or a slice of it such as '{next(iter(lengths))}[90%:]'."
        )
    length = lengths[name]
    return name, range(length)[_bound(match["start"], length) : _bound(match["stop"], length)]


def _bound(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    return round(int(text[:-1]) * length / 100) if text.endswith("%") else int(text)
