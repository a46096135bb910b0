import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.data import Example, Template
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import RecordReader, Shards
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.objectives import next_token_targets
from atkd_jax.sharding import make_mesh
from atkd_jax.teachers.cache_writing import Batching, write_shards

FORM = SignalFormat("top_k", 400, k=1)
LENGTH = 48


@pytest.fixture(scope="module")
def encoded(tiny_tokenizer):
    """Examples of which every seventh is too long and dropped."""
    data = [Example(f"Add {n}.", f"x + {n} " * (40 if n % 7 == 3 else 1 + n % 3)) for n in range(23)]
    return EncodedExamples(data, template=Template("chat", tiny_tokenizer), sequence_length=LENGTH, overlong="drop")


class Teacher:
    """Says of each target its own id and the number of its example; counts the batches."""

    def __init__(self, stop_after=None):
        self.batches, self._stop_after = 0, stop_after

    def __call__(self, batch):
        if self.batches == self._stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        names = ("tokens", "segment_ids", "loss_mask")
        targets, _ = next_token_targets(**{name: batch[name] for name in names})
        numbers = batch["example_numbers"].astype(jnp.float32)
        exact = {"target_log_prob": numbers, "log_uncertainty": -numbers, "rest_entropy": 2 * numbers}
        listed = {"ids": targets[..., None], "log_probs": 0 * numbers[..., None] - 1}
        return exact | listed | {"log_rest_mass": numbers}


def write(directory, encoded, teacher, *, mesh=None, batch_size=8, packing=True):
    shards = Shards(directory, len(encoded), 5)
    batching = Batching(batch_size, LENGTH, packing, 0)
    progress = []
    try:
        tokens = write_shards(
            shards,
            encoded,
            form=FORM,
            extract=teacher,
            batching=batching,
            mesh=mesh or make_mesh(fsdp=2),
            on_progress=progress.append,
        )
    except KeyboardInterrupt:
        tokens = None
    return shards, tokens, progress


def assert_whole(shards, encoded):
    reader = RecordReader(shards)
    for number in range(len(encoded)):
        example, record = encoded[number], reader[number]
        if example is None:
            assert record == (number, 0, 0, b"")
            continue
        assert (record.tokens_checksum, record.counted_tokens) == (example.checksum, len(example.targets))
        found = FORM.decode(record.payload, example.targets)
        np.testing.assert_array_equal(found["ids"][:, 0], example.targets)
        np.testing.assert_array_equal(found["rest_entropy"], 2.0 * number)
    reader.close()


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("axes", [{"fsdp": 2}, {"tensor": 4}])
def test_every_example_has_its_record(encoded, axes, packing, tmp_path):
    shards, tokens, progress = write(tmp_path, encoded, Teacher(), mesh=make_mesh(**axes), packing=packing)
    assert_whole(shards, encoded)
    assert tokens == sum(len(example.targets) for example in map(encoded.__getitem__, range(23)) if example)
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0, 23)
    assert sum(encoded[number] is None for number in range(23)) == 3


def test_what_was_stopped_goes_on_at_the_record_where_it_was(encoded, tmp_path):
    teacher, rounds, written = Teacher(stop_after=2), 0, 0
    while True:
        shards, tokens, progress = write(tmp_path, encoded, teacher, packing=False)
        assert progress[0] >= written
        written = progress[0]
        rounds += 1
        if tokens is not None:
            break
        teacher = Teacher(stop_after=2)
    assert rounds > 1
    assert_whole(shards, encoded)


def test_a_whole_cache_takes_no_batch(encoded, tmp_path):
    write(tmp_path, encoded, Teacher())
    teacher = Teacher()
    _, tokens, progress = write(tmp_path, encoded, teacher)
    assert (teacher.batches, tokens, progress) == (0, 0, [23])
