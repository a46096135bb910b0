import numpy as np
import pytest

from atkd_jax.data import Template
from atkd_jax.data.cached_signals import CachedSignals
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import Record, Shards, ShardWriter
from atkd_jax.data.rows import batch_of_rows
from atkd_jax.data.signal_format import EXACT, SignalFormat
from atkd_jax.errors import InputError
from atkd_jax.objectives import next_token_targets

LENGTH = 96
FORM = SignalFormat("top_k", 400, k=3)


def said_of(example):
    """What a made-up teacher says: numbers that tell example and target apart."""
    count = len(example.targets)
    values = (example.number + np.arange(count) / 1000).astype(np.float32)
    ids = np.stack([example.targets, (example.targets + 1) % 400, np.full(count, example.number)], axis=1)
    log_probs = np.tile(np.log(np.float32([0.5, 0.25, 0.125])), (count, 1))
    exact = dict(zip(EXACT, (np.full(count, np.log(0.5)), np.full(count, np.log(0.5)), values), strict=True))
    return exact | {"ids": ids, "log_probs": log_probs, "log_rest_mass": np.full(count, np.log(0.125), np.float32)}


@pytest.fixture
def encoded(tokenizer, examples):
    return EncodedExamples(examples, template=Template("chat", tokenizer), sequence_length=LENGTH, overlong="truncate")


@pytest.fixture
def shards(tmp_path, encoded):
    shards = Shards(tmp_path, len(encoded), 16)
    for shard in range(shards.count):
        writer = ShardWriter(shards, shard)
        for number in shards.examples_of(shard):
            example = encoded[number]
            writer.append(Record(number, example.checksum, len(example.targets), FORM.encode(said_of(example))))
        writer.finish()
    return shards


def test_signals_stand_where_their_targets_are_predicted(encoded, shards):
    rows = [[encoded[40], encoded[3]], [], [encoded[17]]]
    batch = batch_of_rows(rows, sequence_length=LENGTH, padding_id=0)
    signals = CachedSignals(shards, FORM, sequence_length=LENGTH)
    found = signals(rows)
    signals.close()
    inputs = {name: batch[name] for name in ("tokens", "segment_ids", "loss_mask")}
    targets, mask = map(np.asarray, next_token_targets(**inputs))
    assert mask.sum() == sum(len(example.targets) for row in rows for example in row)
    np.testing.assert_array_equal(found["teacher/ids"][mask][:, 0], targets[mask])
    np.testing.assert_array_equal(found["teacher/ids"][~mask], -1)
    assert np.isneginf(found["teacher/log_probs"][~mask]).all()
    of = np.floor(found["teacher/rest_entropy"][mask])
    np.testing.assert_array_equal(found["teacher/ids"][mask][:, 2], of)
    assert set(of.astype(int)) == {40, 3, 17}
    assert {name: array.dtype.name for name, array in found.items()} == {
        "teacher/target_log_prob": "float32",
        "teacher/log_uncertainty": "float32",
        "teacher/rest_entropy": "float32",
        "teacher/log_rest_mass": "float32",
        "teacher/ids": "int32",
        "teacher/log_probs": "float32",
    }


def test_the_targets_probabilities_are_had_by_number_alone(encoded, shards):
    signals = CachedSignals(shards, FORM, sequence_length=LENGTH)
    assert signals.examples == len(encoded)
    found = signals.target_log_probs(17)
    np.testing.assert_array_equal(found, np.full(len(encoded[17].targets), np.float32(np.log(0.5))))


def test_a_record_of_other_tokens_is_refused(encoded, shards):
    other = encoded[5]
    changed = type(other)(other.tokens[::-1].copy(), other.loss_mask, False, 5)
    with pytest.raises(InputError, match=r"Example 5 of the data must have the tokens of which the teacher's cache"):
        CachedSignals(shards, FORM, sequence_length=LENGTH)([[changed]])
