"""Small models, tokenizers and files for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["the cat sat on the mat", "def add(a, b): return a + b", "12 and 345", "déjà vu", "the end of the text"] * 3
CHAT = "{% for m in messages %}<|s|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n{% endfor %}"


def make_tokenizer(texts: list[str] = TEXTS, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|s|>", "<|e|>", "<|p|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|s|>", eos_token="<|e|>", pad_token="<|p|>", model_max_length=64
    )
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """A small random model by transformers: heads that share keys, and a head size that width does not imply."""
    settings = {
        "vocab_size": 320,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def saved_llama(tmp_path: Path) -> Callable[..., tuple[LlamaForCausalLM, Path]]:
    """A function that makes a small model and saves it with transformers: (model, directory)."""

    def save(*, max_shard_size: str = "5GB", dtype: torch.dtype = torch.float32, **changes):
        model = make_llama(**changes).to(dtype)
        directory = tmp_path / f"llama{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(directory, max_shard_size=max_shard_size)
        return model, directory

    return save
