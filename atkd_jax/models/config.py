"""The shape and the switches of a decoder: all that a checkpoint's config says and the arithmetic needs."""

from __future__ import annotations

from dataclasses import dataclass

from atkd_jax.errors import InputError
from atkd_jax.models.layers import ACTIVATIONS


@dataclass(frozen=True)
class Llama3RopeScaling:
    """How LLaMA 3.1 and later slow the rotary frequencies down, to reach beyond the length they were trained at.

    Wavelengths below `original_max_position / high_freq_factor` stay, those above `original_max_position /
    low_freq_factor` are divided by `factor`, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self):
        if not self.factor >= 1:
            raise InputError(f"rope_scaling: factor must be at least 1, got {self.factor}; give 1 for no scaling.")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise InputError(
                "rope_scaling: low_freq_factor must be positive and below high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}; exchange or correct them."
            )
        if self.original_max_position < 1:
            raise InputError(
                f"rope_scaling: original_max_position must be at least 1, got {self.original_max_position}; correct it."
            )


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer. Two models with equal configs have parameters of equal names and shapes.

    `max_position` is what the model was trained for; it is carried to the exported config and limits nothing here.

    Raises:
        InputError: where the numbers do not fit together.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Llama3RopeScaling | None = None
    max_position: int = 2048
    tie_embeddings: bool = False
    activation: str = "silu"

    def __post_init__(self):
        sizes = ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_width")
        for name in sizes:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"model config: {name} must be a whole number from 1 on, got {value!r}; correct it.")
        for name in ("norm_eps", "rope_theta"):
            if not getattr(self, name) > 0:
                raise InputError(f"model config: {name} must be above 0, got {getattr(self, name)}; correct it.")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model config: num_heads must be a multiple of num_kv_heads, got {self.num_heads} and "
                f"{self.num_kv_heads}; choose a divisor of {self.num_heads}."
            )
        if self.head_dim % 2:
            raise InputError(
                f"model config: head_dim must be even, because rotary embedding turns pairs, got {self.head_dim}; "
                "choose an even one."
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"model config: activation must be one of {', '.join(sorted(ACTIVATIONS))}, got {self.activation!r}; "
                "choose one of them."
            )
