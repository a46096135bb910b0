"""A tiny model with a tokenizer of its own, written as a Hugging Face directory; a pytest plugin for every room."""

from pathlib import Path

import jax
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from atkd_jax.interop import export_model
from atkd_jax.models import Decoder, DecoderConfig

TEXT = [
    "def add(a, b):\n    return a + b\n",
    "Write a Python function that adds two numbers.",
    "if x is None:\n    x = []\n",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_teacher_directory(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random decoder of 4 layers, about 50,000 parameters, sure enough of itself that its layers matter."""
    config = DecoderConfig(
        vocab_size=len(tiny_tokenizer), width=32, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=64
    )
    directory = tmp_path_factory.mktemp("tiny") / "teacher"
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(params=0)))
    export_model(
        nnx.merge(graphdef, jax.tree.map(lambda leaf: 5.0 * leaf, params)),
        directory,
        tokenizer=tiny_tokenizer,
        dtype="float32",
        max_shard_bytes=10**9,
        model_card="A random model for tests.\n",
        generation_config={},
    )
    return directory
