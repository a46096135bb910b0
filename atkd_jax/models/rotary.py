"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), with the two halves of what is turned as the pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.models.rope_scaling import LinearRopeScaling, Llama3RopeScaling, RopeScaling, YarnRopeScaling

if TYPE_CHECKING:
    from atkd_jax.models.config import DecoderConfig


def _scale(frequencies: np.ndarray, scaling: RopeScaling | None, *, theta: float) -> np.ndarray:
    match scaling:
        case LinearRopeScaling():
            return frequencies / scaling.factor
        case Llama3RopeScaling():
            turns = scaling.original_max_position * frequencies / (2 * math.pi)
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            kept = np.clip(kept, 0.0, 1.0)
            return frequencies * (kept + (1 - kept) / scaling.factor)
        case YarnRopeScaling():
            kept = _kept_by_yarn(len(frequencies), scaling, theta=theta)
            return frequencies * (kept + (1 - kept) / scaling.factor)
    return frequencies


def _kept_by_yarn(pairs: int, scaling: YarnRopeScaling, *, theta: float) -> np.ndarray:
    """Return how much of each pair's own frequency is kept, from 1 at the fast ones to 0."""

    def pair_of(turns: float) -> float:
        return pairs * math.log(scaling.original_max_position / (2 * math.pi * turns)) / math.log(theta)

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    # A step where the two are one.
    return 1 - np.clip((np.arange(pairs) - first) / (last - first if last != first else 0.001), 0.0, 1.0)


def rotary_frequencies(config: DecoderConfig, *, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Return the angle per position of each pair, in radians: float32 [rotary_dim / 2]."""
    rotary_dim = config.rotary_dim or config.head_dim
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    return _scale(theta**-exponents, scaling, theta=theta).astype(np.float32)


def rotary_angles(
    frequencies: np.ndarray, positions: jax.Array, amplitudes: np.ndarray | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the sines for `rotate`: float32 [K, B, T, rotary_dim / 2] each.

    Args:
        frequencies: float32 [K, rotary_dim / 2], a row for each way in which some layer turns.
        positions: int [B, T].
        amplitudes: float32 [K], what the turned part of a head is multiplied by; by nothing if None.
    """
    angles = positions.astype(jnp.float32)[None, :, :, None] * frequencies[:, None, None, :]
    cosines, sines = jnp.cos(angles), jnp.sin(angles)
    if amplitudes is None:
        return cosines, sines
    scale = amplitudes[:, None, None, None]
    return cosines * scale, sines * scale


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
