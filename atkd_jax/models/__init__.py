"""One configurable decoder; a family of models is a set of switches in its config, not a copy of its code."""

from atkd_jax.models.cache import KVCache
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.decoder import Decoder
from atkd_jax.models.logical_axes import axes_of, logical_axes
from atkd_jax.models.pruning import evenly_spaced_layers, prune_layers
from atkd_jax.models.remat import Remat
from atkd_jax.models.rope_scaling import LinearRopeScaling, Llama3RopeScaling
from atkd_jax.models.sizes import SIZES, sized_config

__all__ = [
    "SIZES",
    "Decoder",
    "DecoderConfig",
    "KVCache",
    "LinearRopeScaling",
    "Llama3RopeScaling",
    "Remat",
    "axes_of",
    "evenly_spaced_layers",
    "logical_axes",
    "prune_layers",
    "sized_config",
]
