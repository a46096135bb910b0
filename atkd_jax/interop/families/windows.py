"""How config.json says which layers look at a window only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import Fields
from atkd_jax.models import DecoderConfig

_KINDS = {"full_attention": False, "sliding_attention": True}


def read_layer_types(raw: Mapping[str, Any], otherwise: Sequence[bool]) -> tuple[bool, ...]:
    """Return, per layer, whether it is windowed: as `layer_types` says, or as given where there is no such key."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return tuple(otherwise)
    if not isinstance(kinds, list) or not all(kind in _KINDS for kind in kinds):
        raise InputError(f"must have a list of {' and '.join(_KINDS)} at layer_types, but has {kinds!r}; correct it.")
    return tuple(_KINDS[kind] for kind in kinds)


def write_layer_types(config: DecoderConfig) -> list[str]:
    """Return `layer_types`."""
    windowed = config.windowed_layers or (config.window is not None,) * config.num_layers
    return ["sliding_attention" if is_windowed else "full_attention" for is_windowed in windowed]


def alternating_fields(default_layers: Callable[[Mapping[str, Any], int], Sequence[bool]]) -> Fields:
    """Return how Gemma spells windows: always some, in the layers that `layer_types` or a rule of the family's says.

    Args:
        default_layers: (config.json, number of layers) -> per layer, whether it is windowed.
    """

    def read(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"windowed_layers": read_layer_types(raw, default_layers(raw, fields["num_layers"]))}

    return Fields(read, lambda config: {"layer_types": write_layer_types(config)})


def _read_optional(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    num_layers = fields["num_layers"]
    unwindowed = raw.get("max_window_layers")
    unwindowed = num_layers if not isinstance(unwindowed, int) else unwindowed
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    windowed = read_layer_types(raw, [layer >= unwindowed for layer in range(num_layers)])
    return {"window": window, "windowed_layers": windowed} if window is not None and any(windowed) else {}


def _write_optional(config: DecoderConfig) -> dict[str, Any]:
    kinds = write_layer_types(config)
    first = kinds.index("sliding_attention") if "sliding_attention" in kinds else config.num_layers
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": first,
        "layer_types": kinds,
    }


# Qwen's spelling: windows are off unless a key of their own turns them on.
OPTIONAL_WINDOWS = Fields(_read_optional, _write_optional)
