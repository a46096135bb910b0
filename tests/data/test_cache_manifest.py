import dataclasses
import json

import pytest

from atkd_jax.data import Example, Template
from atkd_jax.data.cache_manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Manifest,
    complete_manifest,
    data_fingerprint,
    finished_manifest,
    read_manifest,
    require_same_settings,
    verify_shards,
)
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import Record, ShardWriter
from atkd_jax.errors import InputError

SETTINGS = {"data.examples": 7, "cache.examples_per_shard": 4, "data.template": "chat", "data.sequence_length": 512}


def write_shard(shards, shard):
    writer = ShardWriter(shards, shard)
    for number in shards.examples_of(shard):
        writer.append(Record(number, 1, 2, b"what the teacher said" * 9))
    writer.finish()


@pytest.fixture
def cache(tmp_path):
    """A whole cache of two shards."""
    manifest = Manifest(SETTINGS, {"teacher": "tiny"})
    for shard in range(2):
        write_shard(manifest.files(tmp_path), shard)
    manifest = finished_manifest(tmp_path, manifest)
    manifest.write(tmp_path)
    return tmp_path


def test_a_manifest_comes_back_as_it_was_written(cache):
    manifest = complete_manifest(cache)
    assert manifest.settings == SETTINGS
    assert manifest.facts == {"teacher": "tiny"}
    assert (manifest.tokens, [shard.records for shard in manifest.shards]) == (14, [4, 3])
    assert manifest.bytes == sum(file.stat().st_size for file in cache.glob("*.array_record"))
    verify_shards(cache, manifest)


def test_no_cache_and_half_a_cache_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no cache; run `launch.py cache` with the same config first"):
        complete_manifest(tmp_path)
    Manifest(SETTINGS, {}).write(tmp_path)
    with pytest.raises(InputError, match=r"holds a cache that was not finished; run"):
        complete_manifest(tmp_path)


def test_every_field_that_differs_is_named_with_both_values(cache):
    manifest = complete_manifest(cache)
    require_same_settings(cache, manifest, SETTINGS)
    require_same_settings(cache, manifest, {})
    wanted = {"data.template": "plain", "data.sequence_length": 256, "cache.k": 8, "data.examples": 7}
    message = (
        r'data.template was "chat" when it was made and is "plain" now; '
        r"data.sequence_length was 512 when it was made and is 256 now; cache.k was null when it was made and is 8 now"
    )
    with pytest.raises(InputError, match=message):
        require_same_settings(cache, manifest, wanted)


def test_another_version_is_refused_with_both_numbers(cache):
    dataclasses.replace(complete_manifest(cache), format_version=9).write(cache)
    with pytest.raises(InputError, match=r"has format_version=9, but this program reads format_version=2; make"):
        read_manifest(cache)


def test_a_manifest_that_is_no_manifest_is_refused(cache):
    (cache / MANIFEST_NAME).write_text(json.dumps({"format_version": FORMAT_VERSION}))
    with pytest.raises(InputError, match=r"must be a cache's manifest, but cannot be read \('shards'\)"):
        read_manifest(cache)


def test_any_flipped_byte_is_found_by_verifying(cache):
    manifest = complete_manifest(cache)
    file = cache / manifest.shards[1].file
    content = file.read_bytes()
    for place in range(0, len(content), 5000):
        damaged = bytearray(content)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(
            InputError, match=rf"{file.name} must have the SHA-256 [0-9a-f]{{64}}, but has [0-9a-f]{{64}}; rem"
        ):
            verify_shards(cache, manifest)


def test_a_shard_that_is_missing_or_too_short_is_found_at_once(cache):
    manifest = complete_manifest(cache)
    file = cache / manifest.shards[0].file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"must have [\d,]+ bytes, but has [\d,]+; remove it and run"):
        complete_manifest(cache)
    file.unlink()
    with pytest.raises(InputError, match=r"must have [\d,]+ bytes, but is missing; remove it and run"):
        complete_manifest(cache)
    write_shard(manifest.files(cache), 0)
    assert finished_manifest(cache, manifest).shards[0].records == 4


def test_other_text_has_another_fingerprint(tokenizer, examples):
    def fingerprint(data, template="chat", length=64):
        form = Template(template, tokenizer)
        return data_fingerprint(EncodedExamples(data, template=form, sequence_length=length, overlong="truncate"))

    changed = [*examples[:-1], Example("another", "example")]
    found = [
        fingerprint(examples),
        fingerprint(examples, "plain"),
        fingerprint(examples, length=40),
        fingerprint(changed),
        fingerprint(examples[:-1]),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(list(examples)) == found[0]
