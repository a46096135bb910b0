import json

import pytest

from atkd_jax.data import open_instructions, open_source
from atkd_jax.errors import InputError

pytest.importorskip("datasets")
# The package leaves files of its cache open until they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A folder that the package reads as it reads what it downloads, by a name of the hub's form."""
    folder = tmp_path / "owner" / "pairs"
    folder.mkdir(parents=True)
    records = [{"instruction": f"Add {n}.", "context": "", "response": str(n)} for n in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.chdir(tmp_path)
    return "owner/pairs"


def test_a_name_with_a_slash_that_tfds_does_not_know_is_the_hubs(data_set, tmp_path):
    examples = open_source(data_set, split="train[1:]", cache_dir=tmp_path / "cache")
    assert [examples[number].response for number in range(len(examples))] == ["1", "2", "3"]
    asked = open_instructions(data_set, split="train", cache_dir=tmp_path / "cache", limit=2)
    assert [own.instruction for own in asked] == ["Add 0.", "Add 2."]


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [("owner/absent", "train", "owner/absent"), ("owner/pairs", "test", "test")],
)
def test_what_is_not_there_is_one_sentence(name, split, sentence, data_set, tmp_path):
    with pytest.raises(InputError, match=f"{sentence}.*none of TFDS, and the hub does not give it") as error:
        open_source(name, split=split, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
