"""Phi-3: LLaMA whose queries, keys and values stand in one tensor, and gate and up in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import GGUF_KEYS, ConfigKey, Family, Fields, GGUFTable, Weight
from atkd_jax.interop.families.keys import activation_fields, decoder_keys, implied_head_dim
from atkd_jax.interop.families.rotary import rope_object, rotary_fields
from atkd_jax.interop.families.rows import BLOCK, IGNORED, QKV, decoder_rows, fused, joined_biases, joined_rows, linear
from atkd_jax.models import DecoderConfig, LongRopeScaling
from atkd_jax.models.rope_scaling import longrope_amplitude

_ROTARY = rotary_fields()
_ORIGINAL = "original_max_position_embeddings"
# Names of longrope in the family's older files.
_LONGROPE = ("longrope", "su", "yarn")


def _read_rotary(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    rope = dict(rope_object(raw))
    if rope.get("rope_type", rope.get("type")) in _LONGROPE:
        # A length inside of the object is not heeded: transformers' config of this family has one of its own outside.
        rope = {name: value for name, value in rope.items() if name != _ORIGINAL} | {"rope_type": "longrope"}
        raw = {_ORIGINAL: 4096} | {**raw, "rope_parameters": rope}
    return _ROTARY.read(raw, fields)


def _write_rotary(config: DecoderConfig) -> dict[str, Any]:
    written, scaling = _ROTARY.write(config), config.rope_scaling
    if not isinstance(scaling, LongRopeScaling):
        return written
    rope = {"type": "longrope", "short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    implied = longrope_amplitude(config.max_position / scaling.original_max_position, scaling.original_max_position)
    if scaling.amplitude != implied:
        # Versions of transformers before 5 take the object with exactly the three keys above.
        rope |= {"attention_factor": scaling.amplitude}
    return written | {"rope_scaling": rope, _ORIGINAL: scaling.original_max_position}


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    layouts = {"bias": False, "kernels": joined_rows, "biases": joined_biases}
    gate_up = ("layers.mlp.gate", "layers.mlp.up")
    return decoder_rows(
        config,
        attention=(
            *fused(QKV, BLOCK + "self_attn.qkv_proj", "qkv", "width", **layouts),
            *linear("layers.attention.output", BLOCK + "self_attn.o_proj", "width", "heads"),
        ),
        mlp=(
            *fused(gate_up, BLOCK + "mlp.gate_up_proj", "gate_up", "width", **layouts),
            *linear("layers.mlp.down", BLOCK + "mlp.down_proj", "width", "mlp"),
        ),
    )


PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    keys=(
        *decoder_keys(eps=1e-5, max_position=4096, tie=False),
        ConfigKey("sliding_window", "window", None),
    ),
    fields=(
        activation_fields("hidden_act", default="silu"),
        implied_head_dim("hidden_size", "num_attention_heads", may_differ=True),
        Fields(_read_rotary, _write_rotary),
    ),
    weights=_weights,
    ignored=IGNORED,
    gguf=GGUFTable(
        "phi3",
        # The size of a head is the width by their number there, and no key of its own.
        keys={key: name for key, name in GGUF_KEYS.items() if name != "head_dim"}
        | {"attention.sliding_window": "sliding_window"},
        share_key="partial_rotary_factor",
        has_rope_factors=True,
    ),
)
