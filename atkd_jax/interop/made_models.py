"""Models that are made here: a vocabulary of the Python standard library's own text, in front of random weights.

They bring a small vocabulary to runs whose models start from scratch; as a teacher such a model knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from atkd_jax.data import Examples, open_source
from atkd_jax.interop.exporting import export_model
from atkd_jax.interop.model_card import model_card
from atkd_jax.models import Decoder, DecoderConfig

# Name -> size of the vocabulary.
MADE_MODELS = {"stdlib-bpe-2048": 2048}
_END, _PAD = "<|endoftext|>", "<|pad|>"


def make_model(name: str, directory: Path, *, cache_dir: Path | str, report: Callable[[str], None]) -> None:
    """Writes a model of `MADE_MODELS` as a Hugging Face directory: the same one on every machine with this Python.

    Args:
        name: Which.
        directory: Where to; it appears when it is whole.
        cache_dir: Where the text is prepared.
        report: Is told what is done.
    """
    report(f"Making {name}: a vocabulary of {MADE_MODELS[name]:,} pieces, trained on the standard library's text")
    examples = open_source("python_stdlib", split="train", cache_dir=cache_dir, report=report)
    tokenizer = train_tokenizer(examples, vocab_size=MADE_MODELS[name])
    shape = DecoderConfig(
        vocab_size=len(tokenizer), width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=64
    )
    card = model_card(
        title=name,
        summary="Random weights behind a byte-pair vocabulary that was trained on the Python standard library.",
        sections={},
        base_model=None,
        license=None,
        tags=(),
    )
    export_model(
        Decoder(shape, rngs=nnx.Rngs(params=0)),
        directory,
        tokenizer=tokenizer,
        dtype="float32",
        max_shard_bytes=10**9,
        model_card=card,
        generation_config={},
    )


def train_tokenizer(examples: Examples, *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of prompts and responses, which closes nothing of its own accord."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END, _PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(examples), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END, pad_token=_PAD)


def _texts(examples: Examples) -> Iterator[str]:
    for number in range(len(examples)):
        yield examples[number].prompt
        yield examples[number].response
