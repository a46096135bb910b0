import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.tokenizer import load_tokenizer, require_same_tokenizer, save_tokenizer

TEXT = "def add(a, b): return 12 + 345  # déjà vu <think><|e|>\n\n"


def copied(tokenizer: PreTrainedTokenizerFast, edit=lambda rules: None, **settings) -> PreTrainedTokenizerFast:
    """The same tokenizer after an edit of what tokenizer.json says."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(rules)
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(rules))
    names = {"bos_token": "<|s|>", "eos_token": "<|e|>", "pad_token": "<|p|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(names | settings))


def test_a_saved_tokenizer_comes_back(tmp_path: Path, tiny_tokenizer):
    save_tokenizer(tiny_tokenizer, tmp_path)
    back = load_tokenizer(tmp_path)
    assert back(TEXT)["input_ids"] == tiny_tokenizer(TEXT)["input_ids"]
    assert (back.bos_token, back.eos_token, back.pad_token) == ("<|s|>", "<|e|>", "<|p|>")
    assert back.chat_template == tiny_tokenizer.chat_template
    assert back.model_max_length == 64
    require_same_tokenizer(tiny_tokenizer, back)


def test_the_files_are_such_as_every_program_reads(tmp_path: Path, tiny_tokenizer):
    save_tokenizer(tiny_tokenizer, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == tiny_tokenizer.chat_template
    assert not settings.keys() & {"is_local", "name_or_path", "backend", "local_files_only"}
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] == tiny_tokenizer(TEXT)["input_ids"]


def test_tokenizer_json_is_taken_at_its_word_whatever_class_is_named(tmp_path: Path, tiny_tokenizer):
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    digits = copied(tiny_tokenizer)
    digits.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    save_tokenizer(digits, tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    assert load_tokenizer(tmp_path)("a  12")["input_ids"] == digits("a  12")["input_ids"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1.0", "model": {"type": "Magic"}}'])
def test_a_corrupt_file_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json must be a readable tokenizer, but is truncated or corrupt"):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"must hold tokenizer\.json, but does not; save the model's fast tokenizer"):
        load_tokenizer(tmp_path)


def test_chat_templates_and_roles_may_differ(tiny_tokenizer):
    other = copied(tiny_tokenizer, eos_token="<|p|>", pad_token=None)
    other.chat_template = "another"
    require_same_tokenizer(tiny_tokenizer, other)
    require_same_tokenizer(other, tiny_tokenizer)


def swap_two_tokens(rules: dict) -> None:
    vocab = rules["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def swap_two_merges(rules: dict) -> None:
    merges = rules["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def drop_last_merge(rules: dict) -> None:
    rules["model"]["merges"].pop()


def make_plain(rules: dict) -> None:
    next(token for token in rules["added_tokens"] if token["content"] == "<|p|>")["special"] = False


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            swap_two_tokens,
            r"differ in the vocabulary: the token 'a' is \d+ in the teacher's and is \d+ in the stu",
        ),
        (swap_two_merges, r"differ in the merges: merge number 0 is \['.*'\] in the teacher's and \['.*'\] in the stu"),
        (drop_last_merge, r"differ in the merges: the teacher's has \d+ merges and the student's \d+"),
        (make_plain, r"differ in the special tokens: '<\|p\|>' is a special token in the teacher's only"),
    ],
)
def test_what_differs_is_said_with_an_example(tiny_tokenizer, edit, words: str):
    # Named as EOS or padding, a token would become special again.
    other = copied(tiny_tokenizer, edit, pad_token=None)
    with pytest.raises(InputError, match=words):
        require_same_tokenizer(tiny_tokenizer, other)


def test_a_token_more_is_said(tiny_tokenizer):
    other = copied(tiny_tokenizer)
    other.add_tokens([AddedToken("<image>")])
    size = len(tiny_tokenizer)
    words = rf"the token '<image>' is not in the teacher's and is {size} in the student's \({size} and {size + 1} tok"
    with pytest.raises(InputError, match=words):
        require_same_tokenizer(tiny_tokenizer, other)
    with pytest.raises(InputError, match=rf"the token '<image>' is {size} in the teacher's and is not in the stu"):
        require_same_tokenizer(other, tiny_tokenizer)


def test_other_splitting_and_normalising_is_said(tiny_tokenizer):
    other = copied(tiny_tokenizer)
    other.backend_tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(InputError, match=r'differ in the normalizer: null in the teacher.* {"type": "NFC"} in the'):
        require_same_tokenizer(tiny_tokenizer, other)
    other = copied(tiny_tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(InputError, match="differ in the pre_tokenizer"):
        require_same_tokenizer(tiny_tokenizer, other)
