import pytest

from atkd_jax.data import Example
from atkd_jax.interop import fetch_model, load_model, load_tokenizer, made_models
from atkd_jax.interop.made_models import train_tokenizer

EXAMPLES = [Example(f"Return {number} times x.", f"def f(x):\n    return {number} * x\n") for number in range(40)]


def test_its_vocabulary_is_that_of_the_text_and_spells_every_byte():
    tokenizer = train_tokenizer(EXAMPLES, vocab_size=300)
    assert len(tokenizer) == 300
    text = "def g(ü):\n\treturn '☃'\x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("    return ")) < len("    return ") / 2  # It has learned what the text is made of.
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.encode("x")[-1] != tokenizer.eos_token_id


def test_it_is_fetched_by_name_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(made_models, "open_source", lambda *_, **__: EXAMPLES)
    said = []
    directory = fetch_model("stdlib-bpe-2048", cache_dir=tmp_path, report=said.append)
    assert said == ["Making stdlib-bpe-2048: a vocabulary of 2,048 pieces, trained on the standard library's text"]
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    assert model.config.vocab_size == len(tokenizer) < 2048  # So little text has no more pieces.
    assert fetch_model("stdlib-bpe-2048", cache_dir=tmp_path, report=pytest.fail) == directory
