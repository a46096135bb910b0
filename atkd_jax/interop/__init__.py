"""Checkpoints of other programs: fetched, read, written; and the tokenizers that go with them."""

from atkd_jax.interop.exporting import export_model
from atkd_jax.interop.fetch import KNOWN_MODELS, fetch_model
from atkd_jax.interop.loading import load_model, read_config
from atkd_jax.interop.model_card import model_card
from atkd_jax.interop.tokenizer import load_tokenizer, require_same_tokenizer

__all__ = [
    "KNOWN_MODELS",
    "export_model",
    "fetch_model",
    "load_model",
    "load_tokenizer",
    "model_card",
    "read_config",
    "require_same_tokenizer",
]
