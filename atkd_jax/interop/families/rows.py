"""Rows of the tables of weights that many families share: the names that LLaMA began with."""

from __future__ import annotations

from collections.abc import Mapping

from atkd_jax.interop.families.family import Weight
from atkd_jax.interop.families.layouts import LINEAR, PLAIN, Layout, joined
from atkd_jax.models import DecoderConfig

BLOCK = "model.layers.{layer}."
PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
BRANCH_NORMS = {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
SANDWICH_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
IGNORED = ("*.rotary_emb.inv_freq", "lm_head.weight")
"""Old checkpoints keep the rotary frequencies; checkpoints with a tied head may keep the head all the same."""


def linear(
    path: str, name: str, outputs: str, inputs: str, *, bias: bool = False, layout: Layout = LINEAR
) -> tuple[Weight, ...]:
    """Return the kernel of a `Linear`, and its bias where it has one."""
    shape = (outputs, inputs) if layout is LINEAR else (inputs, outputs)
    rows = (Weight((f"{path}.kernel",), f"{name}.weight", shape, layout),)
    return (*rows, Weight((f"{path}.bias",), f"{name}.bias", (outputs,), PLAIN)) if bias else rows


def norm(path: str, name: str, width: str = "width", *, bias: bool = False) -> tuple[Weight, ...]:
    """Return the factor of a norm, and its bias where it has one."""
    parts = {"scale": "weight", "bias": "bias"} if bias else {"scale": "weight"}
    return tuple(Weight((f"{path}.{own}",), f"{name}.{theirs}", (width,), PLAIN) for own, theirs in parts.items())


def fused(
    paths: tuple[str, ...], name: str, outputs: str, inputs: str, *, bias: bool, kernels: Layout, biases: Layout
) -> tuple[Weight, ...]:
    """Return kernels that stand in one tensor together, and their biases where they have some."""
    shape = (outputs, inputs) if kernels is not joined_columns else (inputs, outputs)
    rows = (Weight(tuple(f"{path}.kernel" for path in paths), f"{name}.weight", shape, kernels),)
    if not bias:
        return rows
    return (*rows, Weight(tuple(f"{path}.bias" for path in paths), f"{name}.bias", (outputs,), biases))


QKV = tuple(f"layers.attention.{name}" for name in ("query", "key", "value"))
joined_rows = joined(LINEAR, axis=0)
joined_columns = joined(PLAIN, axis=1)
joined_biases = joined(PLAIN, axis=0)


def attention_rows(config: DecoderConfig) -> tuple[Weight, ...]:
    """Return the projections of attention, and the norms of queries and keys where there are some."""
    name, bias = BLOCK + "self_attn.", config.qkv_bias
    rows = (
        *linear("layers.attention.query", name + "q_proj", "heads", "width", bias=bias),
        *linear("layers.attention.key", name + "k_proj", "kv_heads", "width", bias=bias),
        *linear("layers.attention.value", name + "v_proj", "kv_heads", "width", bias=bias),
        *linear("layers.attention.output", name + "o_proj", "width", "heads", bias=config.output_bias),
    )
    if config.qk_norm == "none":
        return rows
    widths = ("head_dim", "head_dim") if config.qk_norm == "head" else ("heads", "kv_heads")
    return (
        *rows,
        *norm("layers.attention.query_norm", name + "q_norm", widths[0]),
        *norm("layers.attention.key_norm", name + "k_norm", widths[1]),
    )


def mlp_rows(config: DecoderConfig) -> tuple[Weight, ...]:
    """Return the products of a gated MLP."""
    name, bias = BLOCK + "mlp.", config.mlp_bias
    return (
        *linear("layers.mlp.gate", name + "gate_proj", "mlp", "width", bias=bias),
        *linear("layers.mlp.up", name + "up_proj", "mlp", "width", bias=bias),
        *linear("layers.mlp.down", name + "down_proj", "width", "mlp", bias=bias),
    )


def expert_rows(*, router: str, expert: str, gate: str, up: str, down: str) -> tuple[Weight, ...]:
    """Return a router and the products of every expert, by the family's names."""
    return (
        *linear("layers.mlp.router", BLOCK + router, "experts", "width"),
        *linear("layers.mlp.experts.gate", BLOCK + expert + gate, "mlp", "width"),
        *linear("layers.mlp.experts.up", BLOCK + expert + up, "mlp", "width"),
        *linear("layers.mlp.experts.down", BLOCK + expert + down, "width", "mlp"),
    )


def decoder_rows(
    config: DecoderConfig,
    *,
    norms: Mapping[str, str] = PRE_NORMS,
    attention: tuple[Weight, ...] | None = None,
    mlp: tuple[Weight, ...] | None = None,
) -> tuple[Weight, ...]:
    """Return the whole table of a model of LLaMA's kind.

    Args:
        config: its switches.
        norms: attribute of the layer -> name in the checkpoint.
        attention: other rows than `attention_rows`.
        mlp: other rows than `mlp_rows`.
    """
    rows = (
        Weight(("embedding",), "model.embed_tokens.weight", ("vocab", "embed"), PLAIN),
        *(row for own, theirs in norms.items() for row in norm(f"layers.{own}", BLOCK + theirs)),
        *(attention_rows(config) if attention is None else attention),
        *(mlp_rows(config) if mlp is None else mlp),
        *norm("final_norm", "model.norm"),
    )
    return (*rows, *head_row(config))


def head_row(config: DecoderConfig, name: str = "lm_head") -> tuple[Weight, ...]:
    """Return the head, where it is not the embedding."""
    return () if config.tie_embeddings else (Weight(("head",), f"{name}.weight", ("vocab", "embed"), LINEAR),)
