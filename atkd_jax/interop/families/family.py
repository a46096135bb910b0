"""What a family's table holds: keys of config.json, names of weights, and the two directions of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from atkd_jax.errors import InputError
from atkd_jax.interop.families.layouts import Layout
from atkd_jax.models import DecoderConfig

LAYER = "{layer}"
REQUIRED = object()
_FIELD_TYPES = {name: hint for name, hint in get_type_hints(DecoderConfig).items() if hint in (int, float, bool, str)}


@dataclass(frozen=True)
class ConfigKey:
    """One key of config.json and the field of DecoderConfig that it fills.

    Attributes:
        key: in config.json.
        field: of DecoderConfig.
        default: what its absence, or null, means: a value, a function of the whole object, or REQUIRED.
    """

    key: str
    field: str
    default: Any = REQUIRED

    def read(self, raw: Mapping[str, Any]) -> Any:
        """Return the field's value out of config.json."""
        value = raw.get(self.key)
        if value is None:
            if self.default is REQUIRED:
                raise InputError(f"must have the key {self.key}, but does not; fetch or export the model again.")
            value = self.default(raw) if callable(self.default) else self.default
        wanted = _FIELD_TYPES[self.field]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise InputError(
                f"must have a value of type {wanted.__name__} at {self.key}, but has {value!r}; correct it."
            )
        return value


@dataclass(frozen=True)
class Weight:
    """One parameter and the tensors that it is made of: one, or one a layer where the name has `{layer}` in it.

    Attributes:
        path: of the parameter, its parts joined by dots.
        name: of the tensor in the checkpoint.
        shape: of that tensor, as a function of the config.
        layout: how tensor and parameter turn into each other.
        rotary_heads: for the projections of queries and keys, the field of DecoderConfig that counts their heads. GGUF
            files hold such rows in another order.
    """

    path: str
    name: str
    shape: Callable[[DecoderConfig], tuple[int, ...]]
    layout: Layout
    rotary_heads: str | None = None

    @property
    def is_stacked(self) -> bool:
        """Whether the parameter has a leading layer axis."""
        return LAYER in self.name

    def names(self, config: DecoderConfig) -> list[str]:
        """Return the tensors' names in the order of the layers."""
        layers = range(config.num_layers) if self.is_stacked else (0,)
        return [self.name.format(layer=layer) for layer in layers]


@dataclass(frozen=True)
class Family:
    """How one family of models is written down by others.

    Attributes:
        name: its `model_type` in config.json.
        architecture: the class that transformers builds, kept in config.json.
        keys: of config.json, one for each field of DecoderConfig but the rotary ones.
        read_rotary: config.json -> the fields of DecoderConfig that say how positions turn.
        write_rotary: the same way back.
        fixed: keys whose other values would need arithmetic that the decoder does not do.
        weights: config -> the table of weights, in the order of the exported files.
        ignored: patterns of tensors that some checkpoints carry and nobody needs.
        gguf_architecture: its name in GGUF files, or None where they are not read.
        gguf_keys: GGUF key without the architecture's prefix -> key of config.json.
    """

    name: str
    architecture: str
    keys: tuple[ConfigKey, ...]
    read_rotary: Callable[[Mapping[str, Any]], dict[str, Any]]
    write_rotary: Callable[[DecoderConfig], dict[str, Any]]
    weights: Callable[[DecoderConfig], tuple[Weight, ...]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    gguf_architecture: str | None = None
    gguf_keys: Mapping[str, str] = field(default_factory=dict)

    def read_config(self, raw: Mapping[str, Any]) -> DecoderConfig:
        """Return the decoder that a config.json describes.

        Raises:
            InputError: where a key is missing or has a value that the decoder does not compute.
        """
        for key, value in self.fixed.items():
            if raw.get(key) not in (None, value):
                raise InputError(
                    f"must have {key}={value!r}, the only value computed here for the family {self.name}, but has "
                    f"{raw[key]!r}; choose another model."
                )
        fields = {each.field: each.read(raw) for each in self.keys}
        return DecoderConfig(**fields, **self.read_rotary(raw))

    def write_config(self, config: DecoderConfig) -> dict[str, Any]:
        """Return the keys of config.json that describe the decoder."""
        raw: dict[str, Any] = {"model_type": self.name, "architectures": [self.architecture]}
        raw |= {each.key: getattr(config, each.field) for each in self.keys}
        return raw | dict(self.fixed) | self.write_rotary(config)
