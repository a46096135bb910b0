"""The list of families, and which of them a checkpoint, a config or a GGUF file belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import Family
from atkd_jax.interop.families.llama import LLAMA
from atkd_jax.models import DecoderConfig

FAMILIES: tuple[Family, ...] = (LLAMA,)


def _known() -> str:
    return ", ".join(family.name for family in FAMILIES)


def family_of_json(raw: Mapping[str, Any]) -> Family:
    """Return the family that a config.json names.

    Raises:
        InputError: where it is not among those known, which the message lists.
    """
    name = raw.get("model_type")
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InputError(f"must have a model_type among {_known()}, but has {name!r}; choose a model of a known family.")


def family_of_config(config: DecoderConfig) -> Family:
    """Return the first family whose config.json can say all that `config` says.

    Raises:
        InputError: where there is none.
    """
    for family in FAMILIES:
        try:
            if family.read_config(family.write_config(config)) == config:
                return family
        except InputError:
            continue
    raise InputError(f"No family among {_known()} can express {config}; change what it has beyond them.")


def family_for_gguf(architecture: str) -> Family:
    """Return the family of a GGUF file's `general.architecture`.

    Raises:
        InputError: where it is not among those known, which the message lists.
    """
    known = {family.gguf_architecture: family for family in FAMILIES if family.gguf_architecture}
    if architecture not in known:
        raise InputError(
            f"must have an architecture among {', '.join(known)}, but has {architecture!r}; choose another GGUF file."
        )
    return known[architecture]
