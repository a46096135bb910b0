"""Shapes for students that start from random weights."""

from __future__ import annotations

import dataclasses
import difflib

import numpy as np

from atkd_jax.errors import InputError
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.rope_scaling import LongRopeScaling, RopeScaling


def _shape(
    width: int, num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, mlp_width: int
) -> dict[str, int]:
    return {
        "width": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "mlp_width": mlp_width,
    }


# The names up to 30m count the parameters of the layers, because a vocabulary of usual size would outweigh them.
# The last three are the published shapes of SmolLM2, whose names count the embedding too.
SIZES: dict[str, dict[str, int]] = {
    "0.3m": _shape(64, 6, 4, 2, 16, 192),
    "1m": _shape(128, 5, 4, 2, 32, 384),
    "3m": _shape(192, 8, 6, 2, 32, 512),
    "10m": _shape(320, 9, 10, 2, 32, 896),
    "30m": _shape(512, 10, 8, 4, 64, 1408),
    "135m": _shape(576, 30, 9, 3, 64, 1536),
    "360m": _shape(960, 32, 15, 5, 64, 2560),
    "1.7b": _shape(2048, 24, 32, 32, 64, 8192),
}

# Families of experts, and those that are like them with one MLP per layer.
_DENSE = {"mixtral": "mistral", "qwen3_moe": "qwen3"}


def sized_config(name: str, *, like: DecoderConfig) -> DecoderConfig:
    """Return a config with the shape called `name` and everything else, the vocabulary above all, taken from `like`.

    What goes with a shape is fitted to it: where `like` has as many heads with keys as heads, so has the result; the
    share of a head that turns stays, and so do factors of its frequencies by their place among the pairs; what layers
    differ in is repeated or cut; and experts become one MLP.

    Raises:
        InputError: where the table has no such name.
    """
    if name.lower() not in SIZES:
        nearest = difflib.get_close_matches(name.lower(), SIZES, n=1)
        hint = f" did you mean {nearest[0]}?" if nearest else " choose one of them."
        raise InputError(f"student.size: must be one of {', '.join(SIZES)}, got {name!r};{hint}")
    shape = SIZES[name.lower()]
    num_layers, head_dim = shape["num_layers"], shape["head_dim"]
    turned = None if like.rotary_dim is None else max(2, like.rotary_dim * head_dim // like.head_dim // 2 * 2)

    def repeated(each: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(each[layer % len(each)] for layer in range(num_layers)) if each else ()

    fitted = {
        "num_kv_heads": shape["num_heads" if like.num_kv_heads == like.num_heads else "num_kv_heads"],
        "rotary_dim": turned,
        "rope_scaling": _fitted_scaling(like.rope_scaling, pairs=(turned or head_dim) // 2),
        "query_scalar": None if like.query_scalar is None else head_dim,
        "embed_width": None,
        "rotary_layers": repeated(like.rotary_layers),
        "windowed_layers": repeated(like.windowed_layers),
        "family": _DENSE.get(like.family, like.family),
        "num_experts": 0,
        "experts_per_token": 0,
        "normalize_expert_weights": True,
    }
    return dataclasses.replace(like, **shape | fitted)


def _fitted_scaling(scaling: RopeScaling | None, *, pairs: int) -> RopeScaling | None:
    if not isinstance(scaling, LongRopeScaling) or len(scaling.short_factors) == pairs:
        return scaling
    # Pair number i of n turns by theta^(-i / n): what is at the same share of the way turns alike.
    places, known = np.arange(pairs) / pairs, np.arange(len(scaling.short_factors)) / len(scaling.short_factors)
    short, long = (
        tuple(map(float, np.interp(places, known, factors)))
        for factors in (scaling.short_factors, scaling.long_factors)
    )
    return dataclasses.replace(scaling, short_factors=short, long_factors=long)
