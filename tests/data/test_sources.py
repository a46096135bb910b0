import pytest

from atkd_jax.data import sources
from atkd_jax.data.examples import example_from_record
from atkd_jax.data.jsonl import JsonLines
from atkd_jax.errors import InputError

PAIR = {"prompt": "p", "response": "r"}


def test_a_path_opens_a_file(write_jsonl, tmp_path):
    path = write_jsonl(PAIR)
    assert isinstance(sources.open_source(str(path), split="train", cache_dir=tmp_path), JsonLines)


def test_a_file_needs_no_extension(write_jsonl, tmp_path, monkeypatch):
    write_jsonl(PAIR, name="pairs")
    monkeypatch.chdir(tmp_path)
    assert isinstance(sources.open_source("pairs", split="train", cache_dir=tmp_path), JsonLines)


@pytest.mark.parametrize("source", ["missing.jsonl", "missing.json", "./missing", "/missing", "~/missing"])
def test_what_looks_like_a_path_is_never_taken_for_a_tfds_name(source, tmp_path):
    with pytest.raises(InputError, match=r"The data file .*missing.* does not exist: give the path of a JSONL file\."):
        sources.open_source(source, split="train", cache_dir=tmp_path)


def test_anything_else_is_a_tfds_name(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(sources, "open_tfds", lambda name, **settings: calls.append((name, settings)))
    sources.open_source("set/config:1.0.0", split="train[:9%]", cache_dir=str(tmp_path), report=print)
    settings = {"split": "train[:9%]", "cache_dir": tmp_path, "report": print, "read": example_from_record}
    assert calls == [("set/config:1.0.0", settings)]
