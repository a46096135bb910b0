"""Text from a model: a key-value cache, a compiled loop, and a sampler that is a pure function of logits and keys."""

from atkd_jax.generation.generate import generate
from atkd_jax.generation.sampling import sample
from atkd_jax.generation.stop_strings import cut_at, stop_at

__all__ = ["cut_at", "generate", "sample", "stop_at"]
