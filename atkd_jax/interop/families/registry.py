"""The list of families, and which of them a checkpoint, a config or a GGUF file belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import Family
from atkd_jax.interop.families.gemma2 import GEMMA2
from atkd_jax.interop.families.gemma3 import GEMMA3
from atkd_jax.interop.families.gpt2 import GPT2
from atkd_jax.interop.families.gpt_neox import GPT_NEOX
from atkd_jax.interop.families.llama import LLAMA
from atkd_jax.interop.families.mistral import MISTRAL
from atkd_jax.interop.families.mixtral import MIXTRAL
from atkd_jax.interop.families.olmo2 import OLMO2
from atkd_jax.interop.families.opt import OPT
from atkd_jax.interop.families.phi3 import PHI3
from atkd_jax.interop.families.qwen2 import QWEN2
from atkd_jax.interop.families.qwen3 import QWEN3
from atkd_jax.interop.families.qwen3_moe import QWEN3_MOE
from atkd_jax.interop.families.smollm3 import SMOLLM3
from atkd_jax.models import DecoderConfig

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA2,
    GEMMA3,
    PHI3,
    OLMO2,
    SMOLLM3,
    OPT,
    GPT_NEOX,
    GPT2,
    MIXTRAL,
    QWEN3_MOE,
)
_BY_NAME = {family.name: family for family in FAMILIES}


def family_of_json(raw: Mapping[str, Any]) -> Family:
    """Return the family that a config.json names.

    Raises:
        InputError: where it is not among those known, which the message lists.
    """
    name = raw.get("model_type")
    if name not in _BY_NAME:
        raise InputError(
            f"must have a model_type among {', '.join(_BY_NAME)}, but has {name!r}; choose a model of a known family."
        )
    return _BY_NAME[name]


def family_of_config(config: DecoderConfig) -> Family:
    """Return the family that a config names, once it is seen to say all of the config.

    Raises:
        InputError: where there is no such family, or its config.json cannot express what the config has.
    """
    family = family_of_json({"model_type": config.family})
    read = family.read_config(family.write_config(config))
    if read != config:
        lost = [name for name, value in vars(config).items() if getattr(read, name) != value]
        raise InputError(
            f"model config: the family {family.name} must have {lost[0]}={getattr(read, lost[0])!r} here, got "
            f"{getattr(config, lost[0])!r}; choose a shape that the family has."
        )
    return family


def family_for_gguf(architecture: str) -> Family:
    """Return the family of a GGUF file's `general.architecture`.

    Raises:
        InputError: where it is not among those known, which the message lists.
    """
    known: dict[str, Family] = {}
    for family in FAMILIES:
        if family.gguf:
            known.setdefault(family.gguf.architecture, family)  # of several that are written alike the first is read
    if architecture not in known:
        raise InputError(
            f"must have an architecture among {', '.join(known)}, but has {architecture!r}; choose another GGUF file."
        )
    return known[architecture]
