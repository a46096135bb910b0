"""What differs between the layers of a model besides their weights: how positions turn, and how far a token looks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.rope_scaling import YarnRopeScaling
from atkd_jax.models.rotary import rotary_frequencies

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
    """

    frequencies: np.ndarray | None
    each: tuple[LayerKind, ...]
    amplitudes: np.ndarray | None = None

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
        amplitude = scaling.amplitude if is_rotary and isinstance(scaling, YarnRopeScaling) else 1.0
        return np.append(turning if is_rotary else np.zeros_like(turning), np.float32(amplitude))

    rows = [way(*each) for each in zip(windowed, rotary, strict=True)]
    distinct, rotations = np.unique(np.stack(rows), axis=0, return_inverse=True)
    rotations = [int(number) for number in rotations.reshape(-1)]
    each = tuple(LayerKind(*kind) for kind in zip(rotations, windows, strict=True))
    amplitudes = distinct[:, -1] if (distinct[:, -1] != 1).any() else None
    return LayerKinds(distinct[:, :-1], each, amplitudes)
