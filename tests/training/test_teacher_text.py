"""SeqKD end to end: the teacher writes once into the run, training reads it, and a second start writes nothing."""

import io
import json
import threading

import numpy as np
import pytest
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import Template
from atkd_jax.errors import InputError
from atkd_jax.generation import answer
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.training import teacher_text
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train
from atkd_jax.training.teacher_text import TEACHER_TEXT_NAME, training_source


@pytest.fixture
def config(tiny_teacher_directory, examples, tmp_path):
    tree = {
        "run_dir": tmp_path / "run",
        "teacher": {"model": str(tiny_teacher_directory)},
        "student": {"layers": 2},
        "objective": {"name": "cross_entropy"},
        "data": {"source": str(examples), "train_split": "train[:9]", "sequence_length": 128, "packing": False},
        "training": {"steps": 2, "batch_size": 8},
        "checkpoint": {"every_steps": 1},
        "rollout": {"author": "teacher", "once": True, "temperature": 0, "max_new_tokens": 6},
    }
    return Config.model_validate(tree)


def test_the_teacher_writes_once_and_the_student_learns_from_it(config, tiny_teacher_directory, monkeypatch):
    out = io.StringIO()
    train(config, console=Console(file=out, width=200))
    path = config.run_dir / TEACHER_TEXT_NAME
    written = path.read_text()
    records = [json.loads(line) for line in written.splitlines()]
    assert [record["prompt"] for record in records] == [f"Add {number} to x." for number in range(9)]
    own = load_model(tiny_teacher_directory), [records[4]["prompt"]], load_tokenizer(tiny_teacher_directory)
    assert records[4]["response"] == answer(*own, template="chat", max_new_tokens=6)[0]
    assert "The teacher answers 9 prompts, once" in out.getvalue()
    assert training_source(config) == (str(path), "train")
    # What the loss is on are the written texts, and the closing tokens of those that had room for one: of eight of the
    # nine, one a row.
    assert any(record.get("ended") is False for record in records)
    lines = read_metrics(config.run_dir)
    form = Template("chat", load_tokenizer(tiny_teacher_directory))
    lengths = [len(form.response_ids(record["response"], ended=record.get("ended", True))) for record in records]
    assert sum(lengths) - lines[0]["counted_tokens"] in lengths

    def refuse(*_, **__):
        raise AssertionError("the teacher wrote again")

    monkeypatch.setattr(teacher_text, "written_answers", refuse)
    (config.run_dir / "checkpoints" / "2").rename(config.run_dir / "last")
    train(config, console=Console(file=out, width=200))
    assert "Learning from what the teacher has written" in out.getvalue()
    assert "Going on from step 1" in out.getvalue()
    assert path.read_text() == written
    again = read_metrics(config.run_dir)[1]
    assert {name: again[name] for name in ("loss", "counted_tokens")} == {
        name: lines[1][name] for name in ("loss", "counted_tokens")
    }


@pytest.fixture
def in_two_processes(monkeypatch):
    """Runs a function once as each of two processes, which are threads that exchange values as processes do."""
    number, met, values = threading.local(), threading.Barrier(2, timeout=60), [None, None]

    def exchange(value):
        values[number.own] = json.loads(json.dumps(value))
        met.wait()
        found = list(values)
        met.wait()
        return found

    monkeypatch.setattr(teacher_text, "gathered", exchange)
    monkeypatch.setattr(teacher_text.jax, "process_index", lambda: number.own)

    def run(function):
        ends = {}

        def as_process(own):
            number.own = own
            try:
                ends[own] = function()
            except InputError as error:
                ends[own] = str(error)

        threads = [threading.Thread(target=as_process, args=(own,)) for own in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    return run


def test_every_process_answers_what_the_one_that_writes_asks_for(in_two_processes):
    asked = []

    def answers(numbers):
        asked.append(numbers)
        return [f"answer {number}" for number in numbers]

    def write(ask):
        assert ask(range(3)) == ["answer 0", "answer 1", "answer 2"]
        assert ask(range(3, 5)) == ["answer 3", "answer 4"]

    assert in_two_processes(lambda: teacher_text._in_step(answers, write)) == {0: None, 1: None}
    assert sorted(asked, key=str) == [range(3), range(3), range(3, 5), range(3, 5)]


def test_what_the_one_that_writes_refuses_ends_every_process(in_two_processes):
    def write(_):
        raise InputError("begun with other settings")

    told = in_two_processes(lambda: teacher_text._in_step(lambda _: [], write))
    assert told == {0: "begun with other settings", 1: "begun with other settings"}


@pytest.mark.slow
def test_two_processes_write_and_learn_as_one_does(launcher, tiny_run_words, tmp_path):
    words = [*tiny_run_words, "--data.packing=false", "--objective.name=cross_entropy", "--rollout.author=teacher"]
    words += ["--rollout.once=true", "--rollout.max_new_tokens=6", "--rollout.temperature=0.7", "--training.steps=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    launcher.finish([launcher.start([*words, f"--run_dir={one}"])])
    runs = launcher.start_many([*words, f"--run_dir={two}"], 2)
    launcher.finish(runs)
    assert "The teacher answers 40 prompts, once" in runs[0].output
    assert "The teacher answers" not in runs[1].output
    written = (one / TEACHER_TEXT_NAME).read_text()
    assert len(set(written.splitlines())) == 40
    assert (two / TEACHER_TEXT_NAME).read_text() == written
    losses = [[line["loss"] for line in read_metrics(run_dir)] for run_dir in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
