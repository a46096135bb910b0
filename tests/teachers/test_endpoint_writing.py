"""A cache of a served teacher: whole, the same whatever fails, and gone on with at a record."""

import numpy as np
import pytest
from served_model import ServedModel

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.record_shards import RecordReader, Shards
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.interop.openai_client import EndpointError, OpenAIClient
from atkd_jax.teachers.endpoint import EndpointTeacher
from atkd_jax.teachers.endpoint_writing import write_served_shards

FORM = SignalFormat("top_k", 10, k=3)


def encoded(count=11):
    """Returns examples by number, of which one was dropped."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(count):
        tokens = rng.integers(0, 10, rng.integers(4, 8)).astype(np.int32)
        found.append(None if number == 4 else EncodedExample(tokens, np.arange(len(tokens)) >= 2, False, number))
    return found


def write(server, directory, *, attempts=6, timeout_seconds=5.0, **options):
    limits = {"attempts": attempts, "timeout_seconds": timeout_seconds}
    client = OpenAIClient(server.url.removesuffix("/v1"), sleep=lambda _: None, **limits)
    teacher = EndpointTeacher(client, api="vllm", model="served", k=3, vocab_size=10, in_flight=3)
    directory.mkdir(exist_ok=True)
    shards = Shards(directory, 11, 4)
    return shards, write_served_shards(shards, encoded(), form=FORM, teacher=teacher, **options)


def records(shards):
    reader = RecordReader(shards)
    found = [reader[number] for number in range(shards.examples)]
    reader.close()
    return found


@pytest.fixture
def server(openai_server):
    openai_server.answer = lambda path, body: ServedModel().answer(path.removeprefix("/"), body)
    return openai_server


def test_records_hold_what_the_server_said(server, tmp_path):
    seen = []
    shards, tokens = write(server, tmp_path, on_progress=seen.append)
    assert tokens == sum(len(example.targets) for example in encoded() if example is not None)
    assert seen == list(range(12))
    for example, record in zip(encoded(), records(shards), strict=True):
        if example is None:
            assert (record.counted_tokens, record.payload) == (0, b"")
            continue
        assert record.tokens_checksum == example.checksum
        arrays = FORM.decode(record.payload, example.targets)
        for row, at in enumerate(np.flatnonzero(example.loss_mask)):
            log_probs = ServedModel().log_probs(example.tokens[:at])
            np.testing.assert_array_equal(arrays["ids"][row], np.argsort(-log_probs)[:3])
            np.testing.assert_allclose(arrays["target_log_prob"][row], log_probs[example.tokens[at]], rtol=1e-6)


def test_faults_change_no_byte(server, tmp_path):
    plain, _ = write(server, tmp_path / "plain")
    server.faults = [429, "half", 500, "hang up", "silent", (503, {"Retry-After": "0"}), "html"] * 2
    failing, _ = write(server, tmp_path / "failing", attempts=20, timeout_seconds=0.5)
    assert records(failing) == records(plain)
    assert not server.faults


@pytest.mark.parametrize("last", [1, 3, 4, 9])
def test_a_stopped_cache_goes_on_at_its_next_record(server, tmp_path, last):
    """Before, at and after the end of a file; what is written already is not asked for again."""
    plain, _ = write(server, tmp_path / "plain")
    answer, refused = server.answer, encoded()[last + 1 if last != 3 else 5]

    def stops(path, body):
        return answer(path, body) if body["prompt"] != refused.tokens.tolist() else None

    # A body of `null` is no answer.
    server.answer = stops
    with pytest.raises(EndpointError):
        write(server, tmp_path / "stopped", attempts=2)
    server.answer = answer
    server.requests.clear()
    shards, _ = write(server, tmp_path / "stopped")
    asked = sorted(body["prompt"] for _, body in server.requests)
    assert asked == sorted(example.tokens.tolist() for example in encoded()[refused.number :] if example is not None)
    assert records(shards) == records(plain)
    assert write(server, tmp_path / "stopped")[1] == 0


def test_processes_write_files_of_their_own(server, tmp_path):
    plain, whole = write(server, tmp_path / "plain")
    parts = [write(server, tmp_path / "split", process_index=number, process_count=2) for number in range(2)]
    assert sum(tokens for _, tokens in parts) == whole
    assert records(parts[0][0]) == records(plain)
