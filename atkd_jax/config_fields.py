"""What the config tree says about itself: every key by its dotted name, what a value may be, and which key is nearest.

The command line's help and the sentences that refuse a value are both written from here.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_METAVARS = {int: "INT", float: "FLOAT", bool: "{true,false}", str: "TEXT", Path: "PATH"}


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a group of keys, or None where the field is a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every group and every value below `model`, with its dotted name, in the order of definition."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        group = group_of(field)
        if group is not None:
            yield from dotted_fields(group, f"{prefix}{name}.")


def is_optional(field: FieldInfo) -> bool:
    """Whether none is a value of the field."""
    return type(None) in typing.get_args(field.annotation)


def is_list(field: FieldInfo) -> bool:
    """Whether the field takes any number of values."""
    return typing.get_origin(_bare_type(field)) is tuple


def allowed(field: FieldInfo) -> str:
    """What a value may be, in words: 'none or a whole number of at least 1'."""
    if group_of(field) is not None:
        return "a group of keys"
    bare = _bare_type(field)
    if typing.get_origin(bare) is Literal:
        text = "one of " + ", ".join(map(str, typing.get_args(bare)))
    elif typing.get_origin(bare) is tuple:
        text = f"a list, each item {_WORDS[typing.get_args(bare)[0]]}"
    else:
        text = _WORDS[bare] + _bounds(field)
    return f"none or {text}" if is_optional(field) else text


def metavar(field: FieldInfo) -> str:
    """What stands for a value in the help: INT, PATH, {forward,reverse}."""
    bare = _bare_type(field)
    if typing.get_origin(bare) is Literal:
        text = "{" + ",".join(map(str, typing.get_args(bare))) + "}"
    elif typing.get_origin(bare) is tuple:
        text = f"[{_METAVARS[typing.get_args(bare)[0]]} ...]"
    else:
        text = _METAVARS[bare]
    return f"{text}|none" if is_optional(field) else text


def help_text(field: FieldInfo) -> str:
    """The field's description, with its bounds where it has any."""
    bounds = _bounds(field).strip().removeprefix("of ")
    return f"{field.description} ({bounds})" if bounds else str(field.description)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, or None where nothing is near.

    The whole dotted name is compared, and so is its last part alone: `batch_size` at the top of a file is near
    `training.batch_size`.
    """

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(a=name, b=candidate).ratio()
        last = difflib.SequenceMatcher(a=name.rpartition(".")[2], b=candidate.rpartition(".")[2]).ratio()
        # Two keys of one last name differ only in their group, which the whole name then decides.
        return max(whole, 0.9 * last + 0.1 * whole)

    best = max(candidates, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


def _bare_type(field: FieldInfo) -> Any:
    """The field's type without 'or None' and without what `Annotated` adds."""
    annotation = field.annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (annotation,) = [part for part in typing.get_args(annotation) if part is not type(None)]
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _bounds(field: FieldInfo) -> str:
    """' of at least 1', ' above 0', ' from 0 to 1', or nothing."""
    found = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)
    }
    match found:
        case {"ge": low, "le": high}:
            return f" from {low} to {high}"
        case {"ge": low, "lt": high}:
            return f" of at least {low} and below {high}"
        case {"gt": low, "le": high}:
            return f" above {low} and at most {high}"
        case {"gt": low, "lt": high}:
            return f" above {low} and below {high}"
        case {"ge": low}:
            return f" of at least {low}"
        case {"gt": low}:
            return f" above {low}"
        case {"le": high}:
            return f" of at most {high}"
        case {"lt": high}:
            return f" below {high}"
    return ""
