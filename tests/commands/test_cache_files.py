"""What every cache goes through, in one process and without a teacher."""

import pytest

from atkd_jax.commands.cache_files import begun, ended, is_whole, told
from atkd_jax.config import Config
from atkd_jax.data.cache_manifest import verify_shards
from atkd_jax.data.record_shards import Record, ShardWriter
from atkd_jax.errors import InputError

SETTINGS = {"cache.kind": "top_k", "cache.k": 3, "cache.examples_per_shard": 2, "data.examples": 3, "vocab_size": 9}


def begin(directory, **changes):
    return begun(Config(), directory, SETTINGS | changes, {"endpoint": "here"})


def test_a_cache_is_begun_gone_on_with_and_ended(tmp_path):
    directory = tmp_path / "cache"
    manifest = begin(directory)
    assert manifest.facts["endpoint"] == "here"
    assert not is_whole(directory, manifest)
    shards = manifest.files(directory)
    for shard in range(2):
        writer = ShardWriter(shards, shard)
        for number in shards.examples_of(shard):
            writer.append(Record(number, 1, 4, b"known"))
        writer.finish()
    manifest = ended(directory, begin(directory))
    assert is_whole(directory, begin(directory))
    assert told(manifest).startswith("top_k of 12 counted tokens of 3 examples, ")
    assert not list(directory.glob("signal*.json"))


def test_another_cache_and_a_file_are_left_alone(tmp_path):
    begin(tmp_path / "cache")
    with pytest.raises(InputError, match=r"cache\.k was 3 when it was made and is 4 now"):
        begin(tmp_path / "cache", **{"cache.k": 4})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="must be a directory for a cache, but is a file"):
        begin(tmp_path / "file")


def test_records_without_a_manifest_are_not_adopted(tmp_path):
    manifest = begin(tmp_path)
    writer = ShardWriter(manifest.files(tmp_path), 1)
    writer.append(Record(2, 1, 4, b"known"))
    writer.finish()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match="holds records without a manifest"):
        begin(tmp_path)


def test_a_file_that_was_made_again_just_before_a_kill_is_taken_up(tmp_path):
    manifest = begin(tmp_path)
    for round_ in ("first", "second one"):
        for shard in range(2):
            writer = ShardWriter(manifest.files(tmp_path), shard)
            for number in manifest.files(tmp_path).examples_of(shard):
                writer.append(Record(number, 1, 4, round_.encode()))
            writer.finish()
        if round_ == "first":
            manifest = ended(tmp_path, manifest)
            assert is_whole(tmp_path, manifest)
    assert not is_whole(tmp_path, begin(tmp_path))
    verify_shards(tmp_path, ended(tmp_path, begin(tmp_path)))
    assert is_whole(tmp_path, begin(tmp_path))
