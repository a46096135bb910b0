"""How a model that was trained at one length slows its rotary frequencies down, to reach beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atkd_jax.errors import InputError


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise InputError(f"rope_scaling: factor must be at least 1, got {factor}; give 1 for no scaling.")


def _check_length(original_max_position: int) -> None:
    if original_max_position < 1:
        raise InputError(
            f"rope_scaling: original_max_position must be at least 1, got {original_max_position}; correct it."
        )


def _check_amplitude(amplitude: float) -> None:
    if not amplitude > 0:
        raise InputError(f"rope_scaling: amplitude must be above 0, got {amplitude}; give 1 for no change.")


@dataclass(frozen=True)
class LinearRopeScaling:
    """All frequencies are divided by `factor` (Chen et al., 2023, arXiv 2306.15595)."""

    factor: float

    def __post_init__(self):
        _check_factor(self.factor)


@dataclass(frozen=True)
class Llama3RopeScaling:
    """How LLaMA 3.1 and later slow the rotary frequencies down.

    Wavelengths below `original_max_position / high_freq_factor` stay, those above `original_max_position /
    low_freq_factor` are divided by `factor`, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self):
        _check_factor(self.factor)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise InputError(
                "rope_scaling: low_freq_factor must be positive and below high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}; exchange or correct them."
            )
        _check_length(self.original_max_position)


@dataclass(frozen=True)
class YarnRopeScaling:
    """YaRN (Peng et al., 2023, arXiv 2309.00071), with which Qwen's models reach beyond the length of their training.

    Pairs that turn more than `beta_fast` times within `original_max_position` stay, those that turn fewer than
    `beta_slow` times are divided by `factor`, and those between are interpolated by their number. What is turned is
    multiplied by `amplitude`, so that scores grow by its square.

    Attributes:
        whole_pairs: whether the first and the last pair of the interpolation are rounded outwards.
    """

    factor: float
    original_max_position: int
    amplitude: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    whole_pairs: bool = True

    def __post_init__(self):
        _check_factor(self.factor)
        _check_length(self.original_max_position)
        if not 0 < self.beta_slow < self.beta_fast:
            raise InputError(
                f"rope_scaling: beta_slow must be positive and below beta_fast, got {self.beta_slow} and "
                f"{self.beta_fast}; exchange or correct them."
            )
        _check_amplitude(self.amplitude)


def yarn_amplitude(factor: float, scale: float = 1.0) -> float:
    """Return the amplitude that YaRN recommends, 1 + 0.1 scale log(factor)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE (Ding et al., 2024, arXiv 2402.13753), with which Phi-3 reaches beyond the length of its training.

    Each pair's frequency is divided by a factor of its own: of `short_factors` in texts of at most
    `original_max_position` tokens, of `long_factors` in longer ones. What is turned is multiplied by `amplitude`.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_position: int
    amplitude: float

    def __post_init__(self):
        _check_length(self.original_max_position)
        _check_amplitude(self.amplitude)
        for name in ("short_factors", "long_factors"):
            if not all(factor > 0 for factor in getattr(self, name)):
                raise InputError(f"rope_scaling: {name} must all be above 0, got {getattr(self, name)}; correct them.")
        if len(self.short_factors) != len(self.long_factors):
            raise InputError(
                "rope_scaling: short_factors and long_factors must be as many, got "
                f"{len(self.short_factors)} and {len(self.long_factors)}; correct them."
            )


@dataclass(frozen=True)
class DynamicRopeScaling:
    """NTK-aware scaling by the length of each text, as transformers' `dynamic` has it.

    In texts of L > `original_max_position` tokens the base is multiplied by
    (factor L / original_max_position - factor + 1) ** (d / (d - 2)), d the number of elements that are turned.
    """

    factor: float
    original_max_position: int

    def __post_init__(self):
        _check_factor(self.factor)
        _check_length(self.original_max_position)


def longrope_amplitude(factor: float, original_max_position: int) -> float:
    """Return the amplitude that LongRoPE recommends, sqrt(1 + log(factor) / log(original_max_position))."""
    return math.sqrt(1 + math.log(factor) / math.log(original_max_position)) if factor > 1 else 1.0


RopeScaling = LinearRopeScaling | Llama3RopeScaling | YarnRopeScaling | LongRopeScaling | DynamicRopeScaling
