"""Families of models: how each spells its config and its weights. A new family is one table beside `llama.py`."""

from atkd_jax.interop.families.family import GGUF_KEYS, ConfigKey, Family, Fields, GGUFTable, Weight
from atkd_jax.interop.families.registry import FAMILIES, family_for_gguf, family_of_config, family_of_json

__all__ = [
    "FAMILIES",
    "GGUF_KEYS",
    "ConfigKey",
    "Family",
    "Fields",
    "GGUFTable",
    "Weight",
    "family_for_gguf",
    "family_of_config",
    "family_of_json",
]
