"""Text from a model: a key-value cache, a compiled loop, and a sampler that is a pure function of logits and keys."""

from atkd_jax.generation.generate import generate
from atkd_jax.generation.sampling import sample

__all__ = ["generate", "sample"]
