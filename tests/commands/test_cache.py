import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atkd_jax.commands.main import main
from atkd_jax.data.cache_manifest import read_manifest
from atkd_jax.data.record_shards import RecordReader, ShardWriter, write_json
from atkd_jax.interop import load_tokenizer
from atkd_jax.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = 40


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_teacher_directory):
    """The words of a config, without the cache."""
    pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"def add(x):\n    return x + {a}\n"} for a in range(EXAMPLES)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        f"--teacher.model={tiny_teacher_directory}",
        f"--data.source={pairs}",
        "--data.sequence_length=64",
        "--training.batch_size=8",
        "--cache.k=8",
        "--cache.examples_per_shard=16",
    ]


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """A cache that was written without a stop."""
    directory = tmp_path_factory.mktemp("whole") / "cache"
    assert main(["cache", *given, f"--teacher.cache={directory}"]) == 0
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "cache")


def records(directory):
    manifest = read_manifest(directory)
    reader = RecordReader(manifest.files(directory))
    found = [reader[number] for number in range(EXAMPLES)]
    reader.close()
    return found


def test_a_cache_says_where_it_comes_from(whole, tiny_teacher_directory):
    manifest = read_manifest(whole)
    assert [shard.records for shard in manifest.shards] == [16, 16, 8]
    assert manifest.tokens == sum(record.counted_tokens for record in records(whole)) > 500
    assert {path.name for path in whole.iterdir()} == {"manifest.json", *(shard.file for shard in manifest.shards)}
    settings = dict(manifest.settings)
    for name in ("teacher.weights", "teacher.config", "teacher.tokenizer", "data.fingerprint"):
        assert len(settings.pop(name)) == 64
    assert settings == {
        "teacher.dtype": "float32",
        "teacher.quantize": None,
        "data.template": "chat",
        "data.sequence_length": 64,
        "data.packing": True,
        "data.overlong": "truncate",
        "data.examples": EXAMPLES,
        "cache.kind": "top_k",
        "cache.k": 8,
        "cache.tail_draws": 0,
        "cache.seed": 0,
        "cache.examples_per_shard": 16,
        "objective.temperature": 1.0,
        "vocab_size": len(load_tokenizer(tiny_teacher_directory)),
        "width": 32,
    }


def test_a_whole_cache_is_verified_and_left_alone(whole, given, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert main(["cache", f"--teacher.cache={whole}", "--verify"]) == 0
    assert "is as it was written: top_k of" in capsys.readouterr().out
    assert main(["cache", *given, f"--teacher.cache={whole}"]) == 0
    assert "is whole already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_a_flipped_byte_is_found_and_what_is_removed_is_made_again(copy, whole, given, capsys):
    file = sorted(copy.glob("*.array_record"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert main(["cache", f"--teacher.cache={copy}", "--verify"]) == 2
    error = capsys.readouterr().err
    assert f"{file} must have the SHA-256" in error
    assert "remove it and run `launch.py cache`" in error
    file.unlink()
    assert main(["cache", *given, f"--teacher.cache={copy}"]) == 0
    assert records(copy) == records(whole)
    assert main(["cache", f"--teacher.cache={copy}", "--verify"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--cache.k=9"], "cache.k was 8 when it was made and is 9 now"),
        (["--data.sequence_length=48"], "data.sequence_length was 64 when it was made and is 48 now"),
        (["--data.template=plain"], 'data.template was "chat" when it was made and is "plain" now'),
        (["--data.train_split=train[:39]"], "data.examples was 40 when it was made and is 39 now"),
        (["--teacher.dtype=bfloat16"], 'teacher.dtype was "float32" when it was made and is "bfloat16" now'),
    ],
)
def test_another_cache_is_not_written_into_it(whole, given, changes, message, capsys):
    words = ["cache", *[word for word in given if word.split("=")[0] != changes[0].split("=")[0]], *changes]
    assert main([*words, f"--teacher.cache={whole}"]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_is_needed(given, capsys):
    assert main(["cache", *given]) == 2
    assert "teacher.cache must name the directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--objective.temperature=2"], "whose kind is top_k and keeps probabilities at temperature 1; leave it at 1"),
        (["--objective.name=reverse_kl", "--cache.kind=rest_sample"], "objective.name=reverse_kl cannot be learned"),
    ],
)
def test_a_cache_that_its_own_run_cannot_read_is_not_begun(given, tmp_path, changes, message, capsys):
    assert main(["cache", *given, f"--teacher.cache={tmp_path / 'cache'}", *changes]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_killed_writer_is_gone_on_with_to_the_same_records(whole, given, tmp_path):
    directory = tmp_path / "cache"
    words = [sys.executable, "launch.py", "cache", *given, f"--teacher.cache={directory}"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(path.stat().st_size for path in directory.glob("*.journal")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not read_manifest(directory).is_complete
    assert main(["cache", *given, f"--teacher.cache={directory}"]) == 0
    for ours, theirs in zip(records(directory), records(whole), strict=True):
        assert ours[:3] == theirs[:3]
        assert len(ours.payload) == len(theirs.payload)
    np.testing.assert_equal(read_manifest(directory).settings, read_manifest(whole).settings)
    assert os.listdir(directory).count("manifest.json") == 1


@pytest.mark.slow
def test_processes_write_shards_of_their_own_to_the_same_cache(whole, given, tmp_path):
    directory = tmp_path / "cache"
    words = [sys.executable, "launch.py", "local", "--processes=2", "cache", *given, f"--teacher.cache={directory}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
    for ours, theirs in zip(records(directory), records(whole), strict=True):
        assert ours[:3] == theirs[:3]
        # The exact numbers come first in a payload.
        exact = [np.frombuffer(each.payload, "<f4", 3 * each.counted_tokens) for each in (ours, theirs)]
        np.testing.assert_allclose(*exact, rtol=1e-4, atol=1e-5)
    assert main(["cache", f"--teacher.cache={directory}", "--verify"]) == 0


@pytest.mark.slow
def test_processes_learn_from_a_cache_what_one_learns(whole, given, tmp_path):
    own = ["--student.layers=2", "--training.steps=3", "--optimizer.eps=1e-2", f"--teacher.cache={whole}"]
    losses = []
    for name, before in {"one": [], "two": ["local", "--processes=2"]}.items():
        run = tmp_path / name
        words = [sys.executable, "launch.py", *before, "train", *given, *own, f"--run_dir={run}"]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
        losses.append([line["loss"] for line in read_metrics(run) if "loss" in line])
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(whole, given, tmp_path):
    directory = tmp_path / "cache"
    shutil.copytree(whole, directory)
    manifest = read_manifest(directory)
    dataclasses.replace(manifest, shards=()).write(directory)
    shards = manifest.files(directory)
    # As a kill leaves it: a file that is whole, one of which there is a beginning, and one that is not begun.
    begun = ShardWriter(shards, 1)
    for number in list(shards.examples_of(1))[:5]:
        begun.append(records(whole)[number])
    begun.close()
    for shard in (1, 2):
        shards.path(shard).unlink()
    facts = manifest.shards[0]
    write_json(shards.path(0).with_suffix(".json"), dataclasses.asdict(facts))
    words = [sys.executable, "launch.py", "local", "--processes=2", "cache", *given, f"--teacher.cache={directory}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert read_manifest(directory).shards[0] == facts
    for ours, theirs in zip(records(directory), records(whole), strict=True):
        assert ours[:3] == theirs[:3]
    assert main(["cache", f"--teacher.cache={directory}", "--verify"]) == 0
