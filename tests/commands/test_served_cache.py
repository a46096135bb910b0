"""`cache` of a teacher that a local server has, with faults, and training from what it wrote."""

import json

import numpy as np
import pytest
from served_model import ServedModel

from atkd_jax.commands import served_cache
from atkd_jax.commands.main import main
from atkd_jax.config import TeacherConfig
from atkd_jax.data.cache_manifest import read_manifest
from atkd_jax.data.record_shards import RecordReader
from atkd_jax.interop import load_tokenizer

EXAMPLES = 9


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_teacher_directory):
    """The words of a config without the server and the cache; the directory has the tokenizer and no weights."""
    folder = tmp_path_factory.mktemp("served")
    pairs = folder / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"x + {a}\n"} for a in range(EXAMPLES)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = folder / "tokenizer"
    model.mkdir()
    for file in tiny_teacher_directory.iterdir():
        if not file.name.endswith(".safetensors"):
            (model / file.name).write_bytes(file.read_bytes())
    return [
        f"--teacher.model={model}",
        "--teacher.endpoint_options.model=big",
        "--teacher.endpoint_options.in_flight=3",
        f"--data.source={pairs}",
        "--data.sequence_length=64",
        "--cache.k=8",
        "--cache.examples_per_shard=4",
    ]


@pytest.fixture
def server(openai_server, tiny_teacher_directory):
    tokenizer = load_tokenizer(tiny_teacher_directory)
    model = ServedModel(len(tokenizer))
    model.tokenize = lambda text: tokenizer.encode(text, add_special_tokens=False)
    openai_server.model = model
    openai_server.answer = lambda path, body: model.answer(path.removeprefix("/"), body)
    return openai_server


def words(server, given, directory, *more):
    return [*given, f"--teacher.endpoint={server.url}", f"--teacher.cache={directory}", *more]


def records(directory):
    reader = RecordReader(read_manifest(directory).files(directory))
    found = [reader[number] for number in range(EXAMPLES)]
    reader.close()
    return found


def test_a_cache_is_written_whatever_fails(server, given, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("atkd_jax.interop.openai_client.random.uniform", lambda *_: 0.0)
    monkeypatch.setenv("BIG_KEY", "sk-1")
    keyed = ["--teacher.endpoint_options.key_variable=BIG_KEY", "--teacher.endpoint_options.attempts=20"]
    plain, failing = tmp_path / "plain", tmp_path / "failing"
    assert main(["cache", *words(server, given, plain)]) == 0
    server.faults = [429, "half", "silent", 500, "hang up", "html", 503]
    hasty = "--teacher.endpoint_options.timeout_seconds=0.5"
    assert main(["cache", *words(server, given, failing, hasty, *keyed)]) == 0
    assert server.keys[-1] == "Bearer sk-1"
    assert "is whole: top_k of" in capsys.readouterr().out
    assert not server.faults
    assert records(failing) == records(plain)
    assert read_manifest(plain).settings["teacher.weights"] == "served as big"
    assert "sk-1" not in (failing / "manifest.json").read_text()


@pytest.mark.slow
def test_a_student_is_trained_from_what_was_written_and_the_server_may_go(server, given, tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    assert main(["cache", *words(server, given, cache)]) == 0
    server.close()
    own = ["--student.init=scratch", "--student.size=0.3m", "--training.steps=2", "--training.batch_size=8"]
    assert main(["train", *words(server, given, cache, f"--run_dir={run}", *own)]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_a_refused_run_goes_on_where_it_was_stopped(server, given, tmp_path, capsys):
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    one_by_one = "--teacher.endpoint_options.in_flight=1"
    assert main(["cache", *words(server, given, plain, one_by_one)]) == 0
    prompts = asked(server)
    answer = server.answer
    server.answer = lambda path, body: answer(path, body) if body["prompt"] != prompts[6] else {"choices": []}
    assert main(["cache", *words(server, given, stopped)]) == 2
    assert "must answer with choices" in capsys.readouterr().err
    assert "was not finished" in verified(stopped, capsys)
    server.answer = answer
    server.requests.clear()
    assert main(["cache", *words(server, given, stopped)]) == 0
    assert sorted(asked(server)) == sorted(prompts[6:])
    assert records(stopped) == records(plain)
    assert verified(stopped, capsys) == ""


def asked(server):
    return [body["prompt"] for path, body in server.requests if path.endswith("completions")]


def verified(directory, capsys):
    capsys.readouterr()
    main(["cache", f"--teacher.cache={directory}", "--verify"])
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cache.kind=hidden"], "teacher.endpoint gives likeliest words alone, but cache.kind=hidden"),
        (["--objective.temperature=2"], "objective.temperature=2.0 cannot be learned from teacher.cache"),
        (["--cache.tail_draws=4"], "and cache.tail_draws=4 ask for more of its distribution"),
        (["--teacher.endpoint_options.key_variable=NOT_SET"], "the environment variable NOT_SET must hold the API key"),
    ],
)
def test_what_cannot_be_had_is_refused(server, given, tmp_path, more, message, capsys):
    assert main(["cache", *words(server, given, tmp_path / "cache", *more)]) == 2
    assert message in capsys.readouterr().err


def test_another_tokenizer_is_refused(server, given, tmp_path, capsys):
    server.model.tokenize = lambda text: [5]
    assert main(["cache", *words(server, given, tmp_path / "cache")]) == 2
    assert "teacher.endpoint must have the tokenizer of teacher.model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("processes", "options", "share"),
    [
        (1, {}, (8, None)),
        (4, {"requests_per_second": 2.0}, (2, 0.5)),
        (3, {"in_flight": 2, "requests_per_second": 9.0}, (1, 3.0)),
    ],
)
def test_processes_share_what_a_server_is_asked(processes, options, share, monkeypatch):
    monkeypatch.setattr(served_cache.jax, "process_count", lambda: processes)
    assert served_cache.own_limits(TeacherConfig.model_validate({"endpoint_options": options})) == share
