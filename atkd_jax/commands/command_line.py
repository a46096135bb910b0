"""Words of a command line -> a verb's options, by tyro and the config tree.

tyro reads the words, shows the help and knows every key from the tree. It leaves the values of keys as text: they are
checked together with those of the YAML file, by one rule and in the same words (`atkd_jax.config_file`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from atkd_jax import config_fields
from atkd_jax.config import Config
from atkd_jax.config_file import COMMAND_LINE, load_config
from atkd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """What every verb takes; a verb adds fields of its own in a subclass."""

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A YAML file that holds what differs from the defaults below."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = Config()  # noqa: RUF009 (Config is frozen)


OptionsT = TypeVar("OptionsT", bound=Options)
AnyT = TypeVar("AnyT")


def parse_options(verb: str, options_class: type[OptionsT], words: Sequence[str], *, summary: str) -> OptionsT:
    """The verb's options, with the resolved config as `.settings`.

    Args:
        verb: The verb's name, for the help.
        options_class: The verb's options.
        words: The command line after the verb.
        summary: What the verb does, for the help.

    Raises:
        InputError: A word, a key or a value is not understood.
        SystemExit: With code 0, after `--help`.
    """
    options, overrides = parse_overrides(verb, options_class, words, summary=summary)
    return dataclasses.replace(options, settings=load_config(options.config, overrides))


def parse_overrides(
    verb: str, options_class: type[OptionsT], words: Sequence[str], *, summary: str
) -> tuple[OptionsT, dict[str, object]]:
    """The verb's options, and the keys of the config that the words name, unchecked. Otherwise as `parse_options`."""
    options, unknown = parse_own(verb, options_class, words, summary=summary)
    if unknown:
        raise InputError(_unknown_option(unknown, options_class, verb))
    overrides = {name: _value(name, words) for name, words in _flatten(options.settings)}
    return dataclasses.replace(options, settings=Config()), overrides


def parse_own(verb: str, options_class: type[AnyT], words: Sequence[str], *, summary: str) -> tuple[AnyT, list[str]]:
    """What tyro makes of the words, and those that it does not know. For arguments and errors see `parse_options`."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                options_class,
                prog=f"launch.py {verb}",
                description=summary,
                args=words,
                registry=_REGISTRY,
                return_unknown_args=True,
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(f"{COMMAND_LINE}: {_plain(complaint.getvalue())}") from None


@dataclasses.dataclass(frozen=True)
class _Given:
    """The words that the command line gave for a key; a key that it did not name keeps its default's own type."""

    words: tuple[str, ...]


_REGISTRY = ConstructorRegistry()


@_REGISTRY.struct_rule
def _group_of_keys(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A class of the config tree: its options are its fields, and its value is a dict of those that were given."""
    if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
        return None

    def given_only(**values: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, _Given) or (value and type(value) is dict)
        }

    given_only.__doc__ = info.type.__doc__
    fields = []
    for name, field in info.type.model_fields.items():
        group = config_fields.group_of(field)
        kind = group if group is not None else Annotated[object, _one_key(field)]
        helptext = group.__doc__ if group is not None else config_fields.help_text(field)
        fields.append(StructFieldSpec(name=name, type=kind, default=getattr(info.default, name), helptext=helptext))  # pyright: ignore[reportArgumentType] (an annotated type is a type to tyro)
    return StructConstructorSpec(instantiate=given_only, fields=tuple(fields))


def _one_key(field: FieldInfo) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs="*" if config_fields.is_list(field) else 1,
        metavar=config_fields.metavar(field),
        instance_from_str=lambda words: _Given(tuple(words)),
        is_instance=lambda _: True,
        str_from_instance=_default_text,
    )


def _default_text(default: Any) -> list[str]:
    """A default as it would be written on the command line."""
    if default is None or isinstance(default, bool):
        return [str(default).lower()]
    return [str(item) for item in default] if isinstance(default, tuple) else [str(default)]


def _flatten(given: Any, prefix: str = "") -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for name, value in given.items():
        if isinstance(value, _Given):
            found.append((prefix + name, value.words))
        else:
            found.extend(_flatten(value, f"{prefix}{name}."))
    return found


def _value(dotted: str, words: tuple[str, ...]) -> object:
    field = dict(config_fields.dotted_fields(Config))[dotted]
    if config_fields.is_list(field):
        return list(words)
    return None if config_fields.is_optional(field) and words[0].lower() in ("none", "null") else words[0]


def _unknown_option(words: Sequence[str], options_class: type[Options], verb: str) -> str:
    option = next((word for word in words if word.startswith("-")), None)
    if option is None:
        return (
            f"{COMMAND_LINE}: nothing takes the word {words[0]!r}; `launch.py {verb} --help` shows what {verb} takes."
        )
    name = option.partition("=")[0].lstrip("-").replace("-", "_")
    own = [field.name for field in dataclasses.fields(options_class) if field.name != "settings"]
    keys = [dotted for dotted, field in config_fields.dotted_fields(Config) if config_fields.group_of(field) is None]
    near = config_fields.nearest(name, [*own, *keys])
    hint = f"the nearest is --{near}" if near else f"`launch.py {verb} --help` lists the options"
    return f"{COMMAND_LINE}: unknown option {option}; {hint}."


def _plain(box: str) -> str:
    """tyro's message, taken out of its frame, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box).strip()
    # Its first line is a title. A rule of dashes ends the message, and begins it where the stream takes ASCII alone.
    _, _, inside = text.partition("\n")
    parts = [" ".join(re.sub("[│|]", " ", part).split()) for part in re.split(r"[─-]{5,}", inside)]
    message = next((part for part in parts if part), "")
    missing = re.match(r"Missing value for argument '([^']+)'", message)
    return f"{missing[1]} needs a value." if missing else message
