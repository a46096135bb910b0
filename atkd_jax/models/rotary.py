"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), with the two halves of a head as the pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from atkd_jax.models.config import DecoderConfig, Llama3RopeScaling


def _scale_llama3(frequencies: np.ndarray, scaling: Llama3RopeScaling) -> np.ndarray:
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotary_frequencies(config: DecoderConfig) -> np.ndarray:
    """Return the angle per position of each pair, in radians: float32 [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    frequencies = config.rope_theta**-exponents
    if config.rope_scaling is not None:
        frequencies = _scale_llama3(frequencies, config.rope_scaling)
    return frequencies.astype(np.float32)


def rotary_angles(config: DecoderConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the sines for `rotate`: float32 [B, T, head_dim / 2] each, from positions [B, T]."""
    angles = positions.astype(jnp.float32)[..., None] * rotary_frequencies(config)[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turn every pair of `heads` [B, T, heads, head_dim] by its position's angle, in float32; dtype and shape stay."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None, :], sines[:, :, None, :]
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(heads.dtype)
