import io

import gguf
import pytest
import sentencepiece
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.gguf_sentencepiece import merges_of_scores
from atkd_jax.interop.gguf_tokenizer import add_tokenizer, tokenizer_of_gguf

from .test_gguf_tokenizer import WORDS

KINDS = {"is_unknown": 2, "is_control": 3, "is_unused": 5, "is_byte": 6}


@pytest.fixture(scope="module", params=[True, False], ids=["with a space first", "as it is"])
def oracle(request):
    """A model of LLaMA's kind: BPE by scores, bytes for what it has no letters for, spaces kept."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*WORDS[:40], *(f"the cat {n} sat on the mat; the dog" for n in range(30))]),
        model_writer=trained,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=request.param,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()), request.param


@pytest.fixture(scope="module")
def metadata(oracle):
    """What llama.cpp's converter writes of it."""
    model, begins_with_space = oracle
    ids = range(model.get_piece_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(number) for number in ids],
        "tokenizer.ggml.scores": [model.get_score(number) for number in ids],
        "tokenizer.ggml.token_type": [
            next((kind for name, kind in KINDS.items() if getattr(model, name)(number)), 1) for number in ids
        ],
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": begins_with_space,
    }


@pytest.fixture(scope="module")
def tokenizer(metadata) -> PreTrainedTokenizerFast:
    return tokenizer_of_gguf(metadata, max_length=64)


TEXTS = [text for text in WORDS if "<" not in text and "\ue000" not in text]


def test_ids_and_texts_are_those_of_sentencepiece(tokenizer, oracle):
    for text in TEXTS:
        expected = oracle[0].encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        assert tokenizer.decode(expected) == oracle[0].decode(expected)


def test_a_text_begins_with_bos_unless_the_file_says_no(tokenizer, metadata):
    assert tokenizer("the cat")["input_ids"][0] == tokenizer.bos_token_id == 1
    without = tokenizer_of_gguf(metadata | {"tokenizer.ggml.add_bos_token": False}, max_length=64)
    assert without("the cat")["input_ids"] == tokenizer("the cat")["input_ids"][1:]
    assert (tokenizer.unk_token, tokenizer.eos_token) == ("<unk>", "</s>")


def test_what_is_written_is_what_was_read(tokenizer, metadata, tmp_path):
    file = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    size = len(metadata["tokenizer.ggml.tokens"])
    add_tokenizer(writer, tokenizer, vocab_size=size + 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(file).fields
    written = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    for key in ("model", "bos_token_id", "eos_token_id", "unknown_token_id", "add_space_prefix"):
        assert written[f"tokenizer.ggml.{key}"] == metadata[f"tokenizer.ggml.{key}"]
    assert written["tokenizer.ggml.tokens"][:size] == metadata["tokenizer.ggml.tokens"]
    assert written["tokenizer.ggml.token_type"] == [*metadata["tokenizer.ggml.token_type"], 5, 5, 5, 5]
    again = tokenizer_of_gguf(written, max_length=64)
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_gemmas_spelling_of_the_same_is_written_too(tokenizer, metadata, tmp_path):
    """One normalizer by itself, and a splitting at spaces, of which it leaves none."""
    if metadata["tokenizer.ggml.add_space_prefix"]:
        pytest.skip("Gemma's texts begin as they are")
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    named = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token")}
    gemma = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "gemma2")
    add_tokenizer(writer, gemma, vocab_size=len(metadata["tokenizer.ggml.tokens"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "vocabulary.gguf").fields
    written = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    assert written["tokenizer.ggml.model"] == "llama"
    assert written["tokenizer.ggml.add_space_prefix"] is False
    again = tokenizer_of_gguf(written, max_length=64)
    for text in TEXTS:
        assert again(text)["input_ids"] == gemma(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_merges_that_no_scores_give_are_refused(tokenizer, tmp_path):
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    rules = backend.model
    merges = merges_of_scores(["a", "b", "c", "ab", "abc", "bc"], [0, 0, 0, -1, -2, -3], [1] * 6)
    assert merges == [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")]
    vocab = {token: number for number, token in enumerate(["a", "b", "c", "ab", "abc", "bc"])}
    backend.model = type(rules)(vocab, [("b", "c"), ("a", "b"), ("ab", "c")], byte_fallback=True)
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    with pytest.raises(InputError, match="no scores give the merges of the student's tokenizer"):
        add_tokenizer(writer, PreTrainedTokenizerFast(tokenizer_object=backend), vocab_size=12)
    writer.close()


@pytest.mark.parametrize("part", ["tokens", "scores", "token_type"])
def test_a_file_without_a_part_is_refused(part, metadata):
    fewer = {key: value for key, value in metadata.items() if key != f"tokenizer.ggml.{part}"}
    with pytest.raises(InputError, match=f"must have the key tokenizer.ggml.{part}, but does not"):
        tokenizer_of_gguf(fewer, max_length=64)
