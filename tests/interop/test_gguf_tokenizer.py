import itertools
from pathlib import Path

import gguf
import pytest
from transformers import AutoTokenizer

from atkd_jax.errors import InputError
from atkd_jax.interop import load_tokenizer
from atkd_jax.interop.gguf_tokenizer import tokenizer_of_gguf

from .conftest import make_llama, write_gguf

WORDS = [
    "Hello, world!",
    "It's John's, they've said; I'll go, we'd stay, he'S SHOUTING'LL",
    "déjà vu façade naïve Ångström — “quoted” … ½ ² ₃ Ⅷ",
    "Straße ÄÖÜ ñandú São Paulo ŁÓDŹ ﬁ",
    "Привет, мир! Καλημέρα κόσμε שלום עולם مرحبا हैलो 你好，世界。 こんにちは 안녕하세요",
    "👋🏽 🎉 👩‍👩‍👧‍👦 🇫🇷 ❤️ ☃",
    "e\u0301 is not é, and \u200bzero\u200d width \ufeff mark",
    "1",
    "12",
    "123456789",
    "3.14159",
    "1,000,000",
    "2024-02-29T23:59:60Z",
    "0x1F600",
    "1e-5",
    "٣٤٥",
    "１２３",
    "x =  12",
    "a   3   b",
    "   7",
    "\t8",
    "\n    9\n",
    "[\n    1,\n    22,\n  333]",
    "v1.2.3-rc4",
    "no1 2be 3 4",
    "def add(a, b):\n    return a + b\n",
    'for i in range(10):\n\tif i % 2 == 0:\n\t\tprint(f"{i:>3}")\n',
    'class A(B, metaclass=C):\n    """Doc.\n\n    >>> A()\n    """\n\n    x: int | None = None\n',
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); return 0; }',
    "SELECT * FROM t WHERE a >= 3 AND b <> 'x';",
    '<html><body class="a-b">&nbsp;</body></html>',
    '{"k": [1, 2.5, null, true]}',
    "https://example.org/a/b?c=d&e=f#g",
    "me@example.org",
    "C:\\Users\\me\\file.txt",
    "$x^2 + \\frac{1}{2}$",
    "snake_case CamelCase kebab-case SCREAMING_CASE __dunder__",
    "a/b//c///d",
    "!!! ??? ... ---- ====",
    "(((())))[[]]{{}}",
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n \n  \n",
    "\t",
    "\t\t\t",
    " \t \n ",
    "\r\n",
    "a\rb",
    "\x00\x01\x7f",
    "\u00a0\u2003\u3000",
    "trailing   ",
    "   leading",
    "in   the    middle",
    "a\n\n\n\nb",
    "word\n",
    "\nword",
    "tab\tbetween\t\twords",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<repo_name>",
    "<file_sep><filename>",
    "<jupyter_code>",
    "<empty_output>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|>text",
    " <|im_end|> ",
    "<|im_end|",
    "<|IM_END|>",
    "<|im_start|><|im_start|>",
    "<|unknown|>",
    "<s></s>[INST]<think>",
    "a" * 300,
    "ab " * 100,
    "é" * 50,
    "😀" * 20,
    "9" * 40,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "ÀÁÂÃ 100% 5€ £3 ¥9 §1 ©2024",
    "q.e.d. i.e. e.g. U.S.A.",
    "mixed 日本語 and English 123 テスト",
    "\ud7ff\ue000\U0010ffff",
]
CHATS = [
    [{"role": "user", "content": "What is 12 + 30?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say « déjà vu »  2 times."}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello 👋"},
        {"role": "user", "content": "1\n2"},
    ],
]


def some_strings(tokenizer, count: int = 200) -> list[str]:
    """`count` different strings: those above, chats, and pairs of those above."""
    chats = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
        for chat in CHATS
        for prompt in (False, True)
    ]
    strings = dict.fromkeys([*WORDS, *chats])
    pairs = (left + right for left, right in itertools.product(WORDS[::-7], WORDS[::3]))
    for pair in pairs:
        if len(strings) == count:
            break
        strings[pair] = None
    assert len(strings) == count
    return list(strings)


@pytest.mark.wheel
def test_smollm2_gives_the_ids_that_transformers_gives_for_the_gguf_file(smollm2_directory: Path, smollm2_gguf: Path):
    theirs = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    for ours in (load_tokenizer(smollm2_directory), AutoTokenizer.from_pretrained(smollm2_directory)):
        for text in some_strings(theirs):
            ids = theirs(text)["input_ids"]
            assert ours(text)["input_ids"] == ids, text
            assert ours.decode(ids) == theirs.decode(ids), text
        for chat in CHATS:
            rendered = [each.apply_chat_template(chat, add_generation_prompt=True) for each in (ours, theirs)]
            assert rendered[0]["input_ids"] == rendered[1]["input_ids"]
        assert ours.get_vocab() == theirs.get_vocab()


@pytest.mark.wheel
def test_smollm2_ends_its_answers_with_a_token_that_is_no_padding(smollm2_directory: Path):
    tokenizer = load_tokenizer(smollm2_directory)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)


def read_metadata(file: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "default"])
def test_a_small_vocabulary_gives_the_ids_that_transformers_gives(tmp_path: Path, tiny_tokenizer, pre: str):
    file = tmp_path / "model.gguf"
    write_gguf(file, make_llama(hidden_size=64, intermediate_size=96, head_dim=16), tiny_tokenizer, pre=pre)
    ours = tokenizer_of_gguf(read_metadata(file), max_length=77)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    # transformers adds GPT-2's <|endoftext|> to every such vocabulary, also to one that has no such token.
    texts = [text for text in some_strings(tiny_tokenizer) if "<|endoftext|>" not in text]
    for text in [*texts, "<|s|>a<|e|> <think> <|p|>b"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"] == tiny_tokenizer(text)["input_ids"], text
    assert ours.model_max_length == 77
    assert ours.chat_template == tiny_tokenizer.chat_template


def test_padding_is_another_token_than_eos_where_there_is_one(tmp_path: Path, tiny_tokenizer):
    file = tmp_path / "model.gguf"
    write_gguf(file, make_llama(hidden_size=64, intermediate_size=96, head_dim=16), tiny_tokenizer)
    metadata = read_metadata(file)
    assert metadata["tokenizer.ggml.padding_token_id"] == metadata["tokenizer.ggml.eos_token_id"]
    assert tokenizer_of_gguf(metadata, max_length=8).pad_token == "<|s|>"
    unknown = metadata | {"tokenizer.ggml.unknown_token_id": 2}
    assert tokenizer_of_gguf(unknown, max_length=8).pad_token == "<|p|>"
    named = metadata | {"tokenizer.ggml.padding_token_id": 2}
    assert tokenizer_of_gguf(named, max_length=8).pad_token == "<|p|>"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            {"tokenizer.ggml.model": "t5"},
            r"must have a SentencePiece vocabulary \(llama\), or one of byte-level BPE .* has 't5' split as 'default'",
        ),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "falcon"}, "but has 'gpt2' split as 'falcon'"),
        ({"tokenizer.ggml.model": "gpt2"}, r"must have the key tokenizer\.ggml\.tokens, but does not"),
    ],
)
def test_other_vocabularies_are_refused(metadata: dict, words: str):
    with pytest.raises(InputError, match=words):
        tokenizer_of_gguf(metadata, max_length=8)
