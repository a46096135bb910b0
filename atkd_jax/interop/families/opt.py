"""OPT: learned positions that begin at row 2, ReLU, and in one size norms after the residual and a narrow embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atkd_jax.interop.families.family import ConfigKey, Family, Fields, Weight
from atkd_jax.interop.families.keys import activation_fields, implied_head_dim
from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.interop.families.rows import head_row, linear, norm
from atkd_jax.models import DecoderConfig

_TOP = "model.decoder."
_BLOCK = _TOP + "layers.{layer}."


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    attention, bias = _BLOCK + "self_attn.", config.qkv_bias
    projections = (
        *linear("project_in", _TOP + "project_in", "width", "embed"),
        *linear("project_out", _TOP + "project_out", "embed", "width"),
    )
    return (
        Weight(("embedding",), _TOP + "embed_tokens.weight", ("vocab", "embed"), PLAIN),
        Weight(("position_embedding",), _TOP + "embed_positions.weight", ("positions", "width"), PLAIN),
        *(projections if config.embed_width is not None else ()),
        *(
            row
            for own, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
            for row in linear(f"layers.attention.{own}", attention + theirs, "heads", "width", bias=bias)
        ),
        *linear("layers.attention.output", attention + "out_proj", "width", "heads", bias=bias),
        *norm("layers.attention_norm", _BLOCK + "self_attn_layer_norm", bias=True),
        *linear("layers.mlp.up", _BLOCK + "fc1", "mlp", "width", bias=bias),
        *linear("layers.mlp.down", _BLOCK + "fc2", "width", "mlp", bias=bias),
        *norm("layers.mlp_norm", _BLOCK + "final_layer_norm", bias=True),
        *(norm("final_norm", _TOP + "final_layer_norm", bias=True) if config.final_norm else ()),
        *head_row(config),
    )


def _read_switches(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    def flag(key: str, default: bool) -> bool:
        return ConfigKey(key, "final_norm", default).read(raw)

    norms_first, bias = flag("do_layer_norm_before", True), flag("enable_bias", True)
    embed_width = raw.get("word_embed_proj_dim")
    return {
        "norm_placement": "pre" if norms_first else "post",
        "final_norm": norms_first and not flag("_remove_final_layer_norm", False),
        "embed_width": None if embed_width == fields["width"] else embed_width,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": bias,
    }


def _write_switches(config: DecoderConfig) -> dict[str, Any]:
    norms_first = config.norm_placement == "pre"
    return {
        "do_layer_norm_before": norms_first,
        "_remove_final_layer_norm": norms_first and not config.final_norm,
        "word_embed_proj_dim": config.head_width,
        "enable_bias": config.qkv_bias,
    }


OPT = Family(
    name="opt",
    architecture="OPTForCausalLM",
    keys=(
        ConfigKey("vocab_size", "vocab_size"),
        ConfigKey("hidden_size", "width"),
        ConfigKey("num_hidden_layers", "num_layers"),
        ConfigKey("num_attention_heads", "num_heads"),
        ConfigKey("num_attention_heads", "num_kv_heads"),
        ConfigKey("ffn_dim", "mlp_width"),
        ConfigKey("max_position_embeddings", "max_position", 2048),
        ConfigKey("tie_word_embeddings", "tie_embeddings", True),
    ),
    fields=(
        activation_fields("activation_function", default="relu"),
        implied_head_dim("hidden_size", "num_attention_heads"),
        Fields(_read_switches, _write_switches),
    ),
    constants={
        "norm": "layer",
        "norm_eps": 1e-5,
        "positions": "learned",
        "position_offset": 2,
        "gated_mlp": False,
    },
    fixed={"layer_norm_elementwise_affine": True},
    weights=_weights,
    ignored=("lm_head.weight",),
    prefix="model.",
)
