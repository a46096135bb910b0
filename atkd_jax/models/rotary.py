"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), with the two halves of what is turned as the pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.models.rope_scaling import LinearRopeScaling, Llama3RopeScaling, RopeScaling

if TYPE_CHECKING:
    from atkd_jax.models.config import DecoderConfig


def _scale(frequencies: np.ndarray, scaling: RopeScaling | None) -> np.ndarray:
    match scaling:
        case LinearRopeScaling():
            return frequencies / scaling.factor
        case Llama3RopeScaling():
            turns = scaling.original_max_position * frequencies / (2 * math.pi)
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            kept = np.clip(kept, 0.0, 1.0)
            return frequencies * (kept + (1 - kept) / scaling.factor)
    return frequencies


def rotary_frequencies(config: DecoderConfig, *, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Return the angle per position of each pair, in radians: float32 [rotary_dim / 2]."""
    rotary_dim = config.rotary_dim or config.head_dim
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    return _scale(theta**-exponents, scaling).astype(np.float32)


def rotary_angles(frequencies: np.ndarray, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the sines for `rotate`: float32 [K, B, T, rotary_dim / 2] each.

    Args:
        frequencies: float32 [K, rotary_dim / 2], a row for each way in which some layer turns.
        positions: int [B, T].
    """
    angles = positions.astype(jnp.float32)[None, :, :, None] * frequencies[:, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turn pairs of `heads` [B, T, heads, head_dim] by their position's angles, in float32; dtype and shape stay.

    The angles are [B, T, rotary_dim / 2]; what a head has beyond its first `rotary_dim` elements stays as it is.
    """
    turned_dim = 2 * cosines.shape[-1]
    rest = heads[..., turned_dim:]
    first, second = jnp.split(heads[..., :turned_dim].astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None, :], sines[:, :, None, :]
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    turned = turned.astype(heads.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned
