"""Instructions with reference answers, as the sets have them that instruction-tuned models are compared on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atkd_jax.data.examples import require_known_keys
from atkd_jax.data.sources import open_source
from atkd_jax.errors import InputError


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is asked, what it is about (empty where there is nothing), and the answers to compare with."""

    instruction: str
    input: str
    references: tuple[str, ...]


def instruction_from_record(record: Mapping[str, Any], *, where: str) -> Instruction:
    """Returns the instruction that a record holds under one of `examples.KEY_SETS`; other keys are ignored.

    `instruction`, perhaps `input`, and `output` come before `prompt` and `response`, because sets of instructions often
    hold a ready-made prompt as well. The answer is a text, or a list of texts that are equally good.

    Raises:
        InputError: the keys are not there, or their values are no text.

    Example:
        >>> record = {"instruction": "Name a sum.", "input": "1, 2", "output": ["3", "three"], "prompt": "Below ..."}
        >>> instruction_from_record(record, where="line 1")
        Instruction(instruction='Name a sum.', input='1, 2', references=('3', 'three'))
    """
    keys = [key for key in record if key != "prompt"] if "instruction" in record else list(record)
    asked, addition, answered = require_known_keys(keys, where=where)
    if asked is None:
        raise InputError(f"{where} has {answered!r} alone, but an instruction needs a prompt too: name another set.")
    references = record[answered]
    if isinstance(references, str | bytes):
        references = [references]
    if not isinstance(references, list | tuple) or not references:
        raise InputError(f"{where} must have a text, or a list of texts, under {answered!r}; {references!r} came.")
    given = record.get(addition) if addition else None
    return Instruction(
        _text(record[asked], asked, where),
        _text(given, addition, where) if addition and given else "",
        tuple(_text(reference, answered, where) for reference in references),
    )


def open_instructions(
    source: str, *, split: str, cache_dir: Path, limit: int | None, report: Callable[[str], None] = print
) -> list[Instruction]:
    """Returns the instructions of a split, at most `limit`, evenly spaced; the source is that of `open_source`."""
    found: Any = open_source(source, split=split, cache_dir=cache_dir, report=report, read=instruction_from_record)
    count = len(found) if limit is None else min(limit, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def _text(value: object, key: str, where: str) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise InputError(f"{where} must have text under {key!r}, but a {type(value).__name__} came.")
    return value
