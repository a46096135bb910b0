"""What a family's table holds: keys of config.json, names of weights, and the two directions of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import NoneType
from typing import Any, get_args, get_type_hints

from atkd_jax.errors import InputError
from atkd_jax.interop.families.layouts import Layout, Shape
from atkd_jax.models import DecoderConfig

LAYER, EXPERT = "{layer}", "{expert}"
REQUIRED = object()
_FIELD_TYPES = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(DecoderConfig).items()}


@dataclass(frozen=True)
class ConfigKey:
    """One key of config.json and the field of DecoderConfig that it fills.

    Attributes:
        key: in config.json.
        field: of DecoderConfig.
        default: what its absence means: a value, a function of the whole object, or REQUIRED. Null means the same, but
            for a field that may be None, where it means None.
    """

    key: str
    field: str
    default: Any = REQUIRED

    def read(self, raw: Mapping[str, Any]) -> Any:
        """Return the field's value out of config.json."""
        types = _FIELD_TYPES[self.field]
        value = raw.get(self.key)
        if value is None and not (self.key in raw and NoneType in types):
            if self.default is REQUIRED:
                raise InputError(f"must have the key {self.key}, but does not; fetch or export the model again.")
            value = self.default(raw) if callable(self.default) else self.default
        if float in types and type(value) is int:
            value = float(value)
        if int in types and type(value) is float and value.is_integer() and NoneType in types:
            value = int(value)
        if type(value) not in types:
            wanted = " or ".join(each.__name__ for each in types if each is not NoneType)
            raise InputError(f"must have a value of type {wanted} at {self.key}, but has {value!r}; correct it.")
        return value


@dataclass(frozen=True)
class Fields:
    """Fields of DecoderConfig that are more than one key each.

    Attributes:
        read: (config.json, the fields read before) -> fields.
        write: the same way back.
    """

    read: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    write: Callable[[DecoderConfig], dict[str, Any]]


def dimension(config: DecoderConfig, name: str) -> int:
    """Return how long an axis of a checkpoint's tensor is, by its name in `Weight.shape`."""
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "vocab": config.vocab_size,
        "embed": config.head_width,
        "positions": config.position_offset + config.max_position,
        "width": config.width,
        "heads": heads,
        "kv_heads": kv_heads,
        "qkv": heads + 2 * kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.mlp_width,
        "gate_up": 2 * config.mlp_width,
        "experts": config.num_experts,
    }[name]


@dataclass(frozen=True)
class Weight:
    """Tensors of one name, one for each layer and expert that the name has a place for, and what they are made of.

    Attributes:
        paths: of the parameters that stand in such a tensor together; mostly one.
        name: of the tensor in the checkpoint, with `{layer}` and `{expert}` where it has them.
        shape: of that tensor, as names that `dimension` knows.
        layout: how tensor and parameters turn into each other.
    """

    paths: tuple[str, ...]
    name: str
    shape: tuple[str, ...]
    layout: Layout

    @property
    def is_stacked(self) -> bool:
        """Whether the parameters have a leading layer axis."""
        return LAYER in self.name

    def shape_in(self, config: DecoderConfig) -> Shape:
        """Return the shape of one tensor."""
        return tuple(dimension(config, name) for name in self.shape)

    def places(self, config: DecoderConfig) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yield every tensor's place in the parameters, (), (layer,) or (layer, expert), and its name."""
        layers = range(config.num_layers) if LAYER in self.name else [None]
        experts = range(config.num_experts) if EXPERT in self.name else [None]
        for layer, expert in product(layers, experts):
            place = tuple(number for number in (layer, expert) if number is not None)
            yield place, self.name.format(layer=layer, expert=expert)


# Key of a GGUF file, without the architecture's prefix -> key of config.json, for families of LLaMA's kind.
GGUF_KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "rope.dimension_count": "head_dim",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}


@dataclass(frozen=True)
class GGUFTable:
    """How the family is written into GGUF files.

    Attributes:
        architecture: its name there.
        has_paired_rows: whether the two rows of queries and keys that rotary embedding turns together stand side by
            side there.
        implied: (config.json as far as it is known) -> keys that programs which read such files take for granted.
        keys: key of the file -> key of config.json.
        share_key: the key of config.json for the share of a head that is turned, where `rope.dimension_count` says how
            many elements that is, and not how many a head has.
        adds_one_to_norms: whether a norm's factor stands there itself, and not what it exceeds 1 by.
        has_rope_factors: whether programs that read such files know LongRoPE's two sets of factors.
    """

    architecture: str
    has_paired_rows: bool = False
    implied: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda raw: {}
    keys: Mapping[str, str] = field(default_factory=lambda: GGUF_KEYS)
    share_key: str | None = None
    adds_one_to_norms: bool = False
    has_rope_factors: bool = False


@dataclass(frozen=True)
class Family:
    """How one family of models is written down by others.

    Attributes:
        name: its `model_type` in config.json.
        architecture: the class that transformers builds, kept in config.json.
        keys: of config.json, one for each field of DecoderConfig that has one.
        fields: the rest of what config.json says.
        constants: fields of DecoderConfig that are the same in every model of the family.
        fixed: keys whose other values would need arithmetic that the decoder does not do.
        weights: config -> the table of weights, in the order of the exported files.
        ignored: patterns of tensors that some checkpoints carry and nobody needs.
        prefix: what the names of tensors begin with, and which some checkpoints leave out.
        gguf: None where GGUF files of the family are neither read nor written.
    """

    name: str
    architecture: str
    keys: tuple[ConfigKey, ...]
    fields: tuple[Fields, ...]
    weights: Callable[[DecoderConfig], tuple[Weight, ...]]
    constants: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    prefix: str = ""
    gguf: GGUFTable | None = None

    def read_config(self, raw: Mapping[str, Any]) -> DecoderConfig:
        """Return the decoder that a config.json describes.

        Raises:
            InputError: where a key is missing or has a value that the decoder does not compute.
        """
        for key, value in self.fixed.items():
            given = raw.get(key)
            # Null, false and an empty list all say no.
            if given is not None and given != value and (given or value):
                raise InputError(
                    f"must have {key}={value!r}, the only value computed here for the family {self.name}, but has "
                    f"{given!r}; choose another model."
                )
        read = {each.field: each.read(raw) for each in self.keys}
        read |= self.constants
        for each in self.fields:
            read |= each.read(raw, read)
        return DecoderConfig(family=self.name, **read)

    def write_config(self, config: DecoderConfig) -> dict[str, Any]:
        """Return the keys of config.json that describe the decoder."""
        raw: dict[str, Any] = {"model_type": self.name, "architectures": [self.architecture]}
        raw |= {each.key: getattr(config, each.field) for each in self.keys}
        raw |= self.fixed
        for each in self.fields:
            raw |= each.write(config)
        return raw
