"""One configurable decoder; a family of models is a set of switches in its config, not a copy of its code."""

from atkd_jax.models.cache import KVCache
from atkd_jax.models.config import DecoderConfig, Llama3RopeScaling
from atkd_jax.models.decoder import Decoder

__all__ = ["Decoder", "DecoderConfig", "KVCache", "Llama3RopeScaling"]
