"""Checkpoints of other programs: fetched, read, written; and the tokenizers that go with them."""

from atkd_jax.interop.exporting import export_model
from atkd_jax.interop.families import family_of_config
from atkd_jax.interop.fetch import KNOWN_MODELS, fetch_description, fetch_model
from atkd_jax.interop.fingerprints import config_sha256, tokenizer_sha256, weights_sha256
from atkd_jax.interop.gguf_fetching import is_gguf
from atkd_jax.interop.gguf_writing import export_gguf
from atkd_jax.interop.loading import Place, load_model, on_one_device, read_config
from atkd_jax.interop.model_card import model_card
from atkd_jax.interop.peft_adapter import export_adapter
from atkd_jax.interop.published import PUBLISHED
from atkd_jax.interop.tokenizer import load_tokenizer, require_same_tokenizer

__all__ = [
    "KNOWN_MODELS",
    "PUBLISHED",
    "Place",
    "config_sha256",
    "export_adapter",
    "export_gguf",
    "export_model",
    "family_of_config",
    "fetch_description",
    "fetch_model",
    "is_gguf",
    "load_model",
    "load_tokenizer",
    "model_card",
    "on_one_device",
    "read_config",
    "require_same_tokenizer",
    "tokenizer_sha256",
    "weights_sha256",
]
