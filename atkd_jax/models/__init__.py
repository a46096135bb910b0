"""One configurable decoder; a family of models is a set of switches in its config, not a copy of its code."""

from atkd_jax.models.adapters import TARGETS, add_adapters, merge_adapters, split_trained
from atkd_jax.models.cache import KVCache
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.decoder import Decoder
from atkd_jax.models.filters import filter_axes, filter_normalized_direction, filter_norms
from atkd_jax.models.image_models import ImageAutoencoder, ImageClassifier
from atkd_jax.models.importance import Importance, measure_importance
from atkd_jax.models.logical_axes import axes_around_decoder, axes_of, logical_axes
from atkd_jax.models.pruning import Pruning, evenly_spaced_layers, most_important, prune_model, pruned_config
from atkd_jax.models.quantization import quantize_in_place, weight_bytes
from atkd_jax.models.quantized_array import Bits
from atkd_jax.models.remat import Remat
from atkd_jax.models.rope_scaling import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeScaling,
    YarnRopeScaling,
)
from atkd_jax.models.sizes import SIZES, sized_config
from atkd_jax.models.text_scorers import SequenceClassifier, TextScorer
from atkd_jax.models.token_similarity import TokenSimilarity

__all__ = [
    "SIZES",
    "TARGETS",
    "Bits",
    "Decoder",
    "DecoderConfig",
    "DynamicRopeScaling",
    "ImageAutoencoder",
    "ImageClassifier",
    "Importance",
    "KVCache",
    "LinearRopeScaling",
    "Llama3RopeScaling",
    "LongRopeScaling",
    "Pruning",
    "Remat",
    "RopeScaling",
    "SequenceClassifier",
    "TextScorer",
    "TokenSimilarity",
    "YarnRopeScaling",
    "add_adapters",
    "axes_around_decoder",
    "axes_of",
    "evenly_spaced_layers",
    "filter_axes",
    "filter_normalized_direction",
    "filter_norms",
    "logical_axes",
    "measure_importance",
    "merge_adapters",
    "most_important",
    "prune_model",
    "pruned_config",
    "quantize_in_place",
    "sized_config",
    "split_trained",
    "weight_bytes",
]
