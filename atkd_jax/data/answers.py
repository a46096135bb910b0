"""Short answers and the scores that they were given, and answers as hashed tokens for small models."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atkd_jax.data.jsonl import text_lines
from atkd_jax.data.splits import split_range
from atkd_jax.data.tfds_examples import prepared_records
from atkd_jax.errors import InputError

_TFDS_TEXTS = ("text", "sentence")


class Answers(NamedTuple):
    """Texts, an item's question or name before each response, and scores int32 `[answers]` from 0."""

    texts: list[str]
    scores: np.ndarray


def load_answers(source: str, *, split: str, cache_dir: Path, report: Callable[[str], None] = print) -> Answers:
    """Returns the answers of a split.

    Args:
        source: a JSONL file whose lines have `response`, `score` and perhaps `item`; or the name of a TFDS set with
            `text` or `sentence`, and `label`, such as `imdb_reviews`.
        split: in TFDS's own terms; a file has `train` and its slices.
        cache_dir: the folder for what TFDS prepares.
        report: is given one line when something was prepared.

    Raises:
        InputError: there is no such file, set or split, or a record is not of that form; it names the line.
    """
    if Path(source).suffix == ".jsonl":
        return _of_file(Path(source), split)
    records, features = prepared_records(source, split=split, cache_dir=cache_dir, report=report)
    keys = set(features.keys()) if hasattr(features, "keys") else set()
    text = next((key for key in _TFDS_TEXTS if key in keys), None)
    if text is None or "label" not in keys:
        raise InputError(
            f"The data set {source} has the keys {sorted(keys)}, but scored answers need 'label' and one of "
            f"{', '.join(_TFDS_TEXTS)}: name another."
        )
    texts = [value.decode() if isinstance(value := record[text], bytes) else str(value) for record in records]
    return Answers(texts, np.array([int(record["label"]) for record in records], np.int32))


def _of_file(path: Path, split: str) -> Answers:
    if not path.is_file():
        raise InputError(f"The data file {path} does not exist: give the path of a JSONL file.")
    lines = [line for line in text_lines(path.read_text(encoding="utf-8")) if line.strip()]
    _, kept = split_range(split, {"train": len(lines)}, source=str(path))
    pairs = [_answer(lines[number], where=f"{path} line {number + 1}") for number in kept]
    if not pairs:
        raise InputError(f"The split {split!r} of {path} holds no answers: give one with at least one.")
    return Answers([text for text, _ in pairs], np.array([score for _, score in pairs], np.int32))


def _answer(line: str, *, where: str) -> tuple[str, int]:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON ({error.msg}): write one object a line.") from None
    response, score = (record.get("response"), record.get("score")) if isinstance(record, dict) else (None, None)
    if not isinstance(response, str) or isinstance(score, bool) or not isinstance(score, int) or score < 0:
        raise InputError(f"{where} needs 'response', a text, and 'score', a whole number from 0: write both.")
    item = record.get("item")
    return (response if item is None else f"{item}\n{response}"), score


def hashed_tokens(texts: Sequence[str], *, buckets: int, length: int) -> np.ndarray:
    """Returns int32 `[texts, length]`: words and marks as numbers in 1..buckets - 1 by a checksum, 0 behind the last.

    Needs no vocabulary, and is the same on every machine. Words are in lower case; what is beyond `length` is cut off.

    Example:
        >>> hashed_tokens(["Yes.", "yes"], buckets=100, length=3).tolist()
        [[1, 39, 0], [1, 0, 0]]
    """
    found = np.zeros((len(texts), length), np.int32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]", text.lower())[:length]
        found[row, : len(words)] = [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]
    return found
