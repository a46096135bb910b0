"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), with the two halves of what is turned as the pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.models.rope_scaling import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeScaling,
    YarnRopeScaling,
)

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
        case LongRopeScaling():
            return frequencies / np.asarray(scaling.short_factors)
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
    """Return the angle per position of each pair, in radians: float32 [rotary_dim / 2].

    Where they depend on a text's length they are those of texts of at most `scaling.original_max_position` tokens.
    """
    return _scale(theta ** -_exponents(config), scaling, theta=theta).astype(np.float32)


def _exponents(config: DecoderConfig) -> np.ndarray:
    rotary_dim = config.rotary_dim or config.head_dim
    return np.arange(0, rotary_dim, 2) / rotary_dim


def changes_in_longer_texts(config: DecoderConfig, *, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Return what `frequencies_of_texts` takes besides the frequencies: float32 [rotary_dim / 2]."""
    exponents = _exponents(config)
    match scaling:
        case LongRopeScaling():
            return (theta**-exponents / np.asarray(scaling.long_factors)).astype(np.float32)
        case DynamicRopeScaling():
            rotary_dim = 2 * len(exponents)
            return (exponents * rotary_dim / max(rotary_dim - 2, 1)).astype(np.float32)
    return np.zeros(len(exponents), np.float32)


def text_lengths(positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
    """Return how many tokens each token's text has: int [B, T], of texts whose tokens stand side by side.

    Args:
        positions: int [B, T], counting up within a text.
        segment_ids: int [B, T]; a text ends where they change, too.
    """
    ends = positions[:, 1:] != positions[:, :-1] + 1
    if segment_ids is not None:
        ends |= segment_ids[:, 1:] != segment_ids[:, :-1]
    last = positions.shape[1] - 1
    slots = jnp.where(jnp.pad(ends, ((0, 0), (0, 1)), constant_values=True), jnp.arange(last + 1), last)
    return jnp.take_along_axis(positions, jax.lax.cummin(slots, axis=1, reverse=True), axis=1) + 1


def frequencies_of_texts(
    frequencies: np.ndarray, changes: np.ndarray, lengths: jax.Array, scaling: LongRopeScaling | DynamicRopeScaling
) -> jax.Array:
    """Return the frequencies that each token is turned by, which its text's length decides.

    Args:
        frequencies: float32 [K, rotary_dim / 2], of texts of at most `scaling.original_max_position` tokens.
        changes: likewise: of LongRoPE the frequencies of longer texts; of NTK's kind the exponents of its growth.
        lengths: int [B, T], see `text_lengths`.
        scaling: the model's.

    Returns:
        float32 [K, B, T, rotary_dim / 2].
    """
    lengths, frequencies, changes = lengths[None, ..., None], frequencies[:, None, None], changes[:, None, None]
    if isinstance(scaling, LongRopeScaling):
        return jnp.where(lengths > scaling.original_max_position, changes, frequencies)
    share = lengths.astype(jnp.float32) / scaling.original_max_position
    growth = jnp.maximum(scaling.factor * share - (scaling.factor - 1), 1.0)
    return jnp.asarray(frequencies) * jnp.power(growth, -changes)


def rotary_angles(
    frequencies: np.ndarray | jax.Array, positions: jax.Array, amplitudes: np.ndarray | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the sines for `rotate`: float32 [K, B, T, rotary_dim / 2] each.

    Args:
        frequencies: float32 [K, rotary_dim / 2], a row for each way in which some layer turns, or as
            `frequencies_of_texts` gives them for each token.
        positions: int [B, T].
        amplitudes: float32 [K], what the turned part of a head is multiplied by; by nothing if None.
    """
    each = frequencies if frequencies.ndim == 4 else frequencies[:, None, None, :]
    angles = positions.astype(jnp.float32)[None, :, :, None] * each
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
