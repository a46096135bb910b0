"""YAML files and overrides in, one validated `Config` out, and back to YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from atkd_jax import config_fields
from atkd_jax.config import Config
from atkd_jax.errors import InputError

# Where a value came from that no file holds.
COMMAND_LINE = "command line"


def load_config(
    path: Path | None = None, overrides: Mapping[str, object] | None = None, *, origin: str = COMMAND_LINE
) -> Config:
    """The defaults, under what a YAML file says, under what the overrides say; validated once, as a whole.

    Args:
        path: A YAML file that holds only what differs from the defaults, or None.
        overrides: Values by dotted name, such as `{"training.steps": 5}`. Text is read as YAML's scalars are.
        origin: Where the overrides come from, for errors.

    Returns:
        The config.

    Raises:
        InputError: The file cannot be read or parsed, or a key is unknown, or a value is not allowed. The sentence
            names the file (or the command line), the key and the rule.

    Example:
        >>> load_config(overrides={"training.steps": "5"}).training.steps
        5
        >>> load_config(overrides={"training.stps": 5})
        Traceback (most recent call last):
        ...
        atkd_jax.errors.InputError: command line: unknown key training.stps; the nearest is training.steps.
    """
    overrides = dict(overrides or {})
    tree = read_yaml(path) if path is not None else {}
    for dotted, value in overrides.items():
        *groups, name = dotted.split(".")
        group = tree
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise InputError(f"{path}: {part} must be a group of keys, but {group!r} came.")
        group[name] = value

    def source(dotted: str) -> str:
        on_command_line = path is None or any(f"{name}.".startswith(f"{dotted}.") for name in overrides)
        # A rule over a whole group is the file's to break, unless the override alone makes up the group.
        return origin if on_command_line else str(path)

    _refuse_switches(tree, source)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        details = error.errors()
        # An unknown key is the likeliest reason for whatever else is amiss.
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
        raise InputError(_sentence(details[0], source)) from None


def dump_config(config: Config) -> str:
    """The whole config as YAML, defaults included; `load_config` reads it back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _sentence(detail: ErrorDetails, source: Any) -> str:
    """One error of pydantic's, as: where, which key, what is allowed, what came."""
    fields = dict(config_fields.dotted_fields(Config))
    # The place of a list's item is the list: that is the name which the user can look up.
    dotted = ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    where = source(dotted)
    if detail["type"] == "extra_forbidden":
        near = config_fields.nearest(dotted, fields)
        hint = f"the nearest is {near}" if near else "`launch.py train --help` lists the keys"
        return f"{where}: unknown key {dotted}; {hint}."
    if detail["type"] == "value_error":
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}."
    return f"{where}: {dotted} must be {config_fields.allowed(fields[dotted])}, but {detail['input']!r} came."


def _refuse_switches(tree: Mapping[str, Any], source: Any) -> None:
    """YAML reads `yes` and `on` as true, and pydantic reads true as 1; neither is meant where a number stands."""
    for dotted, field in config_fields.dotted_fields(Config):
        value: Any = tree
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, bool) and field.annotation is not bool:
            raise InputError(f"{source(dotted)}: {dotted} must be {config_fields.allowed(field)}, but {value} came.")


def read_yaml(path: Path) -> dict[str, Any]:
    """A file's keys and values, not validated.

    Raises:
        InputError: The file cannot be read or parsed, or a key stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: there is no such config file; --config takes the path of a YAML file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: this is not a text file in UTF-8; --config takes a YAML file.") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: this is not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a config file holds keys and values, but {type(tree).__name__} came.")
    # A group whose every line is commented out reads as none, and means that nothing differs there.
    return {str(key): value for key, value in tree.items() if not (value is None and _is_group(str(key)))}


def _is_group(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and config_fields.group_of(field) is not None


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} stands twice", key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)
