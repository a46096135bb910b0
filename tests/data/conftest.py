"""A small tokenizer made on the spot, and data sets with it."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from atkd_jax.data import Example

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCE = "the quick brown fox jumps over a lazy dog and then returns to its den for a very long and quiet sleep"
WORDS = SENTENCE.split()


def _make_tokenizer(**special) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([SENTENCE] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(scope="session")
def make_tokenizer():
    """Makes a tokenizer with the given special tokens."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A chat tokenizer whose padding token is its EOS token, the case in which EOS is easily lost."""
    tokenizer = _make_tokenizer(eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without a chat template that puts BOS before and EOS behind every text."""
    tokenizer = _make_tokenizer(eos_token="<|endoftext|>", bos_token="<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|endoftext|>",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("<|endoftext|>", tokenizer.eos_token_id)],
    )
    return tokenizer


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """61 examples of 12 to 80 tokens or so, no two alike."""
    return [
        Example(
            f"{number}: {' '.join(WORDS[: 1 + number % 5])}", f"{' '.join(WORDS[number % 7 : number % 23])} {number}"
        )
        for number in range(61)
    ]


@pytest.fixture
def write_jsonl(tmp_path):
    """Writes lines (objects, or text as it is) to a file and returns its path."""

    def write(*lines, name="data.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return path

    return write
