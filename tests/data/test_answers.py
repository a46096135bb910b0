import json

import numpy as np
import pytest

from atkd_jax.data import answers, hashed_tokens, load_answers
from atkd_jax.errors import InputError


def written(tmp_path, *lines):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_a_files_items_stand_before_their_responses(tmp_path):
    lines = [{"item": "Why?", "response": f"Since {n}.", "score": n % 3} for n in range(10)]
    path = written(tmp_path, *lines, {"response": "No item.", "score": 1})
    train = load_answers(path, split="train", cache_dir=tmp_path)
    assert (train.texts[3], train.texts[-1]) == ("Why?\nSince 3.", "No item.")
    assert train.scores.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert load_answers(path, split="train[9:]", cache_dir=tmp_path).texts == train.texts[9:]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("no json", "line 1 is no JSON"),
        ({"response": "a"}, "needs 'response', a text, and 'score'"),
        ({"response": "a", "score": True}, "whole number from 0"),
        ({"response": "a", "score": -1}, "whole number from 0"),
        ([1], "line 1 needs"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, sentence):
    with pytest.raises(InputError, match=sentence):
        load_answers(written(tmp_path, line), split="train", cache_dir=tmp_path)


def test_a_text_set_of_tfds_is_read_by_its_keys(tmp_path, monkeypatch):
    records = [{"text": b"Good.", "label": 1}, {"text": "Bad.", "label": 0}]
    monkeypatch.setattr(answers, "prepared_records", lambda *_, **__: (records, {"text": None, "label": None}))
    found = load_answers("some_texts", split="train", cache_dir=tmp_path)
    assert (found.texts, found.scores.tolist()) == (["Good.", "Bad."], [1, 0])
    monkeypatch.setattr(answers, "prepared_records", lambda *_, **__: (records, {"image": None}))
    with pytest.raises(InputError, match="scored answers need 'label' and one of text, sentence"):
        load_answers("some_images", split="train", cache_dir=tmp_path)


def test_hashed_tokens_keep_within_their_buckets_and_length():
    found = hashed_tokens(["One, two; THREE four five", "", "one"], buckets=7, length=4)
    assert found.shape == (3, 4)
    assert ((found > 0) & (found < 7))[0].all()
    assert not found[1].any()
    assert found[2, 0] == found[0, 0]
    assert np.array_equal(found, hashed_tokens(["One, two; THREE four five", "", "one"], buckets=7, length=4))
