"""How a model that was trained at one length slows its rotary frequencies down, to reach beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from atkd_jax.errors import InputError


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise InputError(f"rope_scaling: factor must be at least 1, got {factor}; give 1 for no scaling.")


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
        if self.original_max_position < 1:
            raise InputError(
                f"rope_scaling: original_max_position must be at least 1, got {self.original_max_position}; correct it."
            )


RopeScaling = LinearRopeScaling | Llama3RopeScaling
