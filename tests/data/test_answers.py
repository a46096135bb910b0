import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from atkd_jax.data import answers, hashed_tokens, load_answers
from atkd_jax.errors import InputError


def written(tmp_path, *lines):
    path = tmp_path / "answers.jsonl"
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_files_items_stand_before_their_responses(tmp_path):
    lines = [{"item": "Why?", "response": f"Since {n}.", "score": n % 3} for n in range(10)]
    path = written(tmp_path, *lines, {"response": "No item.", "score": 1})
    train = load_answers(path, split="train", cache_dir=tmp_path)
    assert (train.texts[3], train.texts[-1]) == ("Why?\nSince 3.", "No item.")
    assert train.scores.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert load_answers(path, split="train[9:]", cache_dir=tmp_path).texts == train.texts[9:]


@pytest.mark.parametrize("odd", ["a\u2028b", "a\u2029b", "a\x85b"])
def test_only_a_newline_ends_a_line(tmp_path, odd):
    lines = [json.dumps({"response": odd, "score": score}, ensure_ascii=False) for score in (0, 1)]
    assert load_answers(written(tmp_path, *lines), split="train", cache_dir=tmp_path).texts == [odd, odd]


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


class TinySentences(tfds.core.GeneratorBasedBuilder):
    """Sentences with a label, as GLUE's SST-2 has them."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)

    def _info(self):
        features = {"sentence": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["bad", "good"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            label = ("bad", "good")[number % 2]
            yield number, {"sentence": f"{label} é {number}", "label": label}


def test_a_text_set_of_tfds_is_prepared_and_read(tmp_path):
    found = load_answers("tiny_sentences", split="train", cache_dir=tmp_path, report=lambda _: None)
    assert sorted(found.texts) == sorted(f"{('bad', 'good')[n % 2]} é {n}" for n in range(8))
    assert found.scores.tolist() == [int(text.startswith("good")) for text in found.texts]


def test_a_set_of_other_keys_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "prepared_records", lambda *_, **__: ([], {"image": None}))
    with pytest.raises(InputError, match="scored answers need 'label' and one of text, sentence"):
        load_answers("some_images", split="train", cache_dir=tmp_path)


def test_hashed_tokens_keep_within_their_buckets_and_length():
    found = hashed_tokens(["One, two; THREE four five", "", "one"], buckets=7, length=4)
    assert found.shape == (3, 4)
    assert ((found > 0) & (found < 7))[0].all()
    assert not found[1].any()
    assert found[2, 0] == found[0, 0]
    assert np.array_equal(found, hashed_tokens(["One, two; THREE four five", "", "one"], buckets=7, length=4))
