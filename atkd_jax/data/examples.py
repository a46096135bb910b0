"""What a data set is made of: a prompt and the response to learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atkd_jax.errors import InputError

# The sets of keys that an example may come with: prompt, optional addition to it, response.
KEY_SETS = (
    ("prompt", None, "response"),
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    (None, None, "text"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its response, as text, and whether the response is whole, so that its end is to be learned."""

    prompt: str
    response: str
    ended: bool = True


class Examples(Protocol):
    """Random access to the examples of a split; nothing says that they are in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def example_from_record(record: Mapping[str, Any], *, where: str) -> Example:
    """Returns the example that a record holds under one of the known sets of keys.

    - `prompt`, `response`: taken as they are.
    - `instruction`, `output` and perhaps `input`: the prompt is the instruction, then, where the input is not empty, a
      blank line and the input, and at last a newline that keeps it apart from the response in the plain template.
    - `instruction`, `response` and perhaps `context`, as databricks-dolly has them: likewise.
    - `text`, where there is none of these: plain text, all of it the response to an empty prompt.

    `ended` beside them, false, says that the response breaks off, as `generate` and SeqKD write it; it is true if not
    given.

    Args:
        record: names to text (str, or UTF-8 bytes as TFDS gives it).
        where: names the record in an error, such as `data.jsonl line 3`.

    Raises:
        InputError: the keys are not there, or their values are no text.

    Example:
        >>> record = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
        >>> example_from_record(record, where="line 1")
        Example(prompt='Add the numbers.\\n\\n1, 2\\n', response='3', ended=True)
    """
    prompt_key, addition_key, response_key = require_known_keys(record, where=where)
    ended = bool(record.get("ended", True))
    if prompt_key is None:
        return Example("", _text(record, response_key, where), ended)
    prompt, response = _text(record, prompt_key, where), _text(record, response_key, where)
    if addition_key is None:
        return Example(prompt, response, ended)
    addition = _text(record, addition_key, where) if record.get(addition_key) else ""
    return Example(f"{prompt}\n\n{addition}\n" if addition else f"{prompt}\n", response, ended)


def require_known_keys(keys: Collection[str], *, where: str) -> tuple[str | None, str | None, str]:
    """Returns the first of `KEY_SETS` whose prompt and response are among the keys; InputError when none is."""
    for key_set in KEY_SETS:
        if {key_set[0] or key_set[2], key_set[2]} <= set(keys):
            return key_set
    found = ", ".join(repr(key) for key in sorted(keys)) or "none"
    needed = ", or ".join(" and ".join(map(repr, filter(None, (prompt, last)))) for prompt, _, last in KEY_SETS)
    raise InputError(f"{where} has the keys {found}, but an example needs {needed}: rename its fields.")


def require_not_empty(examples: Sequence[Any] | Examples, *, where: str) -> None:
    """Raises InputError when there is nothing to read."""
    if len(examples) == 0:
        raise InputError(f"{where} holds no examples: give a data set or a split with at least one.")


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record[key]
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise InputError(f"{where} has a {type(value).__name__} under {key!r}, but prompts and responses are text.")
    return value


class _SpacedExamples:
    """A view."""

    def __init__(self, examples: Examples, numbers: list[int]):
        self._examples, self._numbers = examples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        return self._examples[self._numbers[index]]


def spaced_numbers(total: int, limit: int | None) -> list[int]:
    """Returns `limit` of the numbers below `total`, evenly spaced; all for None, or where there are no more.

    Example:
        >>> spaced_numbers(10, 4)
        [0, 2, 5, 7]
    """
    count = total if limit is None else min(limit, total)
    return [place * total // count for place in range(count)]


def spaced_examples(examples: Examples, limit: int | None) -> Examples:
    """Returns `limit` examples, evenly spaced, still read by number; all for None, or where there are no more.

    Neighbours in a data set are alike (functions of one module, say), so the first few would stand for little.
    """
    if limit is None or limit >= len(examples):
        return examples
    return _SpacedExamples(examples, spaced_numbers(len(examples), limit))
