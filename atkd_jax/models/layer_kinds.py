"""What differs between the layers of a model besides their weights: how positions turn, and how far a token looks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.rope_scaling import DynamicRopeScaling, LongRopeScaling
from atkd_jax.models.rotary import (
    changes_in_longer_texts,
    frequencies_of_texts,
    rotary_angles,
    rotary_frequencies,
    text_lengths,
)

# A window that no row fills.
UNBOUNDED = 2**30


class LayerKind(NamedTuple):
    """One layer's.

    Attributes:
        rotation: the row of `LayerKinds.frequencies` that turns its queries and keys.
        window: how many tokens a token sees, itself included; None where all layers see all of them.
    """

    rotation: int | jax.Array
    window: int | jax.Array | None


class LayerKinds(NamedTuple):
    """All layers'.

    Attributes:
        frequencies: float32 [K, rotary_dim / 2], the different ways in which layers turn positions; a layer without
            positions turns by 0. None where the model has no rotary embedding.
        each: a kind per layer, of plain numbers.
        amplitudes: float32 [K], what those ways multiply a head by; None where it is 1 in all of them.
        scaling: the model's, where it depends on the length of a text; else None.
        changes: float32 [K, rotary_dim / 2], with which `rotary.frequencies_of_texts` then gives those of longer texts.
    """

    frequencies: np.ndarray | None
    each: tuple[LayerKind, ...]
    amplitudes: np.ndarray | None = None
    scaling: LongRopeScaling | DynamicRopeScaling | None = None
    changes: np.ndarray | None = None

    def angles(self, positions: jax.Array, segment_ids: jax.Array | None = None) -> tuple[jax.Array, jax.Array] | None:
        """Return what `rotary.rotary_angles` does, of tokens [B, T]; None where there is no rotary embedding."""
        frequencies = self.frequencies
        if frequencies is None:
            return None
        if self.scaling is not None and self.changes is not None:
            lengths = text_lengths(positions, segment_ids)
            frequencies = frequencies_of_texts(frequencies, self.changes, lengths, self.scaling)
        return rotary_angles(frequencies, positions, self.amplitudes)

    def shared(self) -> LayerKind | None:
        """Return the kind of every layer, or None where they differ."""
        return self.each[0] if len(set(self.each)) == 1 else None

    def stacked(self) -> LayerKind:
        """Return arrays over the layers, to be scanned beside their weights."""
        rotation, window = zip(*self.each, strict=True)
        windows = None if window[0] is None else jnp.asarray(window, jnp.int32)
        return LayerKind(jnp.asarray(rotation, jnp.int32), windows)


def layer_kinds(config: DecoderConfig) -> LayerKinds:
    """Return what each layer of the config is like."""
    windowed = config.windowed_layers or (config.window is not None,) * config.num_layers
    rotary = config.rotary_layers or (True,) * config.num_layers
    windows = [config.window if is_windowed else UNBOUNDED for is_windowed in windowed]
    if not any(windowed):
        windows = [None] * config.num_layers
    if config.positions != "rotary":
        return LayerKinds(None, tuple(LayerKind(0, window) for window in windows))

    def way(is_windowed: bool, is_rotary: bool) -> np.ndarray:
        is_local = is_windowed and config.local_rope_theta is not None
        theta = config.local_rope_theta if is_local and config.local_rope_theta else config.rope_theta
        scaling = None if is_local else config.rope_scaling
        turning = rotary_frequencies(config, theta=theta, scaling=scaling)
        changes = changes_in_longer_texts(config, theta=theta, scaling=scaling)
        if not is_rotary:
            return np.stack([0 * turning, 0 * turning, 1 + 0 * turning])
        if scaling is None and isinstance(config.rope_scaling, LongRopeScaling):
            changes = turning
        return np.stack([turning, changes, np.full_like(turning, getattr(scaling, "amplitude", 1.0))])

    rows = [way(*each) for each in zip(windowed, rotary, strict=True)]
    distinct, rotations = np.unique(np.stack(rows), axis=0, return_inverse=True)
    rotations = [int(number) for number in rotations.reshape(-1)]
    each = tuple(LayerKind(*kind) for kind in zip(rotations, windows, strict=True))
    frequencies, changes, amplitudes = distinct[:, 0], distinct[:, 1], distinct[:, 2, 0]
    found = LayerKinds(frequencies, each, amplitudes if (amplitudes != 1).any() else None)
    if isinstance(config.rope_scaling, LongRopeScaling | DynamicRopeScaling):
        return found._replace(scaling=config.rope_scaling, changes=changes)
    return found
