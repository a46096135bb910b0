"""Examples in a file of JSON lines, read one line at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from atkd_jax.data.examples import example_from_record, require_not_empty
from atkd_jax.data.splits import split_range
from atkd_jax.errors import InputError


class JsonLines:
    """The examples of a JSONL file, by number.

    Opening reads the file once, checks every line and keeps where it starts (8 bytes a line); `[i]` then reads that
    line alone. Blank lines are skipped. Any number of threads may read, and an instance can be pickled.

    Args:
        path: the file. Each line is a JSON object with the keys of `example_from_record`, in UTF-8.
        split: `train`, the one split of a file, or a slice of it such as `train[:90%]`.
        read: makes an example of a record, as `example_from_record` does.

    Raises:
        InputError: no such file, a line that is no JSON object or lacks the keys (with its number), or no examples.
    """

    def __init__(self, path: Path, *, split: str = "train", read: Callable[..., Any] = example_from_record):
        self._path = path
        self._read = read
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"The data file {path} {what}: give the path of a JSONL file.")
        starts = []
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._parse(line, where=f"{path} line {number}")
                    starts.append(start)
                start += len(line)
        require_not_empty(starts, where=f"The data file {path}")
        _, kept = split_range(split, {"train": len(starts)}, source=str(path))
        require_not_empty(kept, where=f"The split {split!r} of {path}")
        self._starts = np.asarray(starts, np.int64)[kept.start : kept.stop]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        start = int(self._starts[index])
        with self._path.open("rb") as file:
            file.seek(start)
            return self._parse(file.readline(), where=f"{self._path} at byte {start} (it changed after it was opened)")

    def _parse(self, line: bytes, *, where: str) -> Any:
        return self._read(_record(line, where=where), where=where)

    def __repr__(self) -> str:
        return f"JsonLines({str(self._path)!r}, {len(self)} examples)"


def read_prompts(path: Path) -> list[str]:
    """Returns the prompts of a JSONL file, whose lines need no response.

    Raises:
        InputError: no such file, a line that is no JSON object or has no prompt (with its number), or no prompts.
    """
    if not path.is_file():
        raise InputError(f"The file of prompts {path} does not exist: give the path of a JSONL file.")
    with path.open("rb") as file:
        numbered = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    require_not_empty(numbered, where=f"The file of prompts {path}")
    responses = {"response": "", "output": ""}
    prompts = []
    for number, line in numbered:
        where = f"{path} line {number}"
        # Text alone is an example, but nothing to answer.
        record = {key: value for key, value in _record(line, where=where).items() if key != "text"}
        prompts.append(example_from_record(record | responses, where=where).prompt)
    return prompts


def text_lines(text: str) -> list[str]:
    r"""Returns the lines of a JSONL text with their ends, each after a newline and nowhere else.

    `str.splitlines` also parts at characters such as U+2028 and U+0085, which JSON leaves as they are in a string.

    Example:
        >>> text_lines('{"a": "b\u2028c"}\n{"a')
        ['{"a": "b\u2028c"}\n', '{"a']
    """
    return io.StringIO(text).readlines()


def _record(line: bytes, *, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 ({error.reason}): save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON ({error.msg}): each line must be one JSON object.") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is a JSON {type(record).__name__}, but each line must be one JSON object.")
    return record
