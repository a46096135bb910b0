"""SeqKD end to end: the teacher writes once into the run, training reads it, and a second start writes nothing."""

import io
import json

import pytest
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import Template
from atkd_jax.errors import InputError
from atkd_jax.generation import answer
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.sharding import make_meshes
from atkd_jax.teachers import load_teacher
from atkd_jax.training import teacher_text
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train
from atkd_jax.training.teacher_text import TEACHER_TEXT_NAME, training_source, write_teacher_text


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


def test_several_processes_are_told_to_let_one_write(config, monkeypatch):
    meshes = make_meshes()
    teacher = load_teacher(config)
    monkeypatch.setattr(teacher_text.jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"is written by one process, but 2 share this run; start it with one process"):
        write_teacher_text(config, teacher, meshes=meshes, report=print)
