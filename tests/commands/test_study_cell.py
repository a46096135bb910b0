import json
import os
import signal
import time

import pytest

from atkd_jax.analysis.grid import Cell
from atkd_jax.analysis.results import RESULT_NAME
from atkd_jax.commands import evaluate, export, train
from atkd_jax.commands.study_cell import run_cell


@pytest.fixture
def verbs(monkeypatch):
    """What ran, in order, in place of training, measuring and exporting."""
    ran = []
    for module in (train, evaluate, export):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "run", lambda options, name=name: ran.append((name, options)))
    return ran


def test_what_another_cell_starts_from_is_exported(untrained, verbs):
    for starts in ((), (None, 3)):
        # There are no metrics here to make a result of.
        with pytest.raises(FileNotFoundError):
            run_cell(Cell("t", 0, {}, untrained, starts=starts), "print")
    with pytest.raises(FileNotFoundError):
        run_cell(Cell("t", 0, {}, untrained), "print", keep_student=True)
    names = [name for name, _ in verbs]
    assert names == ["train", "evaluate", "train", "evaluate", "export", "export", "train", "evaluate", "export"]
    written = [(options.step, options.out) for name, options in verbs if name == "export"]
    last = None, untrained.run_dir / "student"
    assert written == [last, (3, untrained.run_dir / "student-3"), last]
    assert not verbs[0][1].report  # It is written when the numbers are there as well.
    assert verbs[1][1].after_only


def test_a_run_that_was_begun_with_other_inputs_is_put_aside(untrained, verbs, capsys):
    cell = Cell("t", 0, {}, untrained)
    for inputs in ("old", "old", "new"):
        untrained.run_dir.mkdir(exist_ok=True)
        (untrained.run_dir / "log.txt").write_text(inputs)
        with pytest.raises(FileNotFoundError):
            run_cell(cell, inputs)
    aside = untrained.run_dir.with_name("run.old")
    assert capsys.readouterr().out == f"The inputs have changed: what was here is now {aside}.\n"
    assert (aside / "inputs").read_text() == "old\n"
    assert (untrained.run_dir / "inputs").read_text() == "new\n"
    assert (untrained.run_dir / "log.txt").read_text() == "new"


def test_a_run_that_was_put_aside_is_taken_back_with_its_inputs(untrained, verbs, capsys):
    cell, run_dir = Cell("t", 0, {}, untrained), untrained.run_dir

    def run(inputs):
        run_dir.mkdir(exist_ok=True)
        with (run_dir / "log.txt").open("a") as log:
            log.write(inputs)
        run_cell(cell, inputs)

    def unfinished(inputs):
        with pytest.raises(FileNotFoundError):  # There are no metrics here to make a result of.
            run(inputs)

    unfinished("a")
    (run_dir / "mine").write_text("of a")
    kept = {"fingerprint": "a", "measures": {}, "teacher": {}, "seconds": 1.0}
    (run_dir / RESULT_NAME).write_text(json.dumps(kept))
    unfinished("b")
    (run_dir / "mine").write_text("of b")
    verbs.clear()
    run("a")
    assert not verbs  # It has finished.
    assert (run_dir / "mine").read_text() == "of a"
    assert not run_dir.with_name("run.a").exists()
    unfinished("b")
    assert [name for name, _ in verbs] == ["train", "evaluate"]  # It goes on from where it stood.
    assert (run_dir / "mine").read_text() == "of b"
    assert (run_dir / "log.txt").read_text() == "abab"
    assert sorted(path.name for path in run_dir.parent.glob("run*")) == ["run", "run.a"]
    assert f"A run with these inputs was {run_dir}.b and goes on here." in capsys.readouterr().out


def test_what_is_put_aside_takes_nothing_s_place(untrained, verbs):
    taken = untrained.run_dir.with_name("run.a")
    taken.mkdir()
    (taken / "file").write_text("mine")
    for inputs in ("a", "b"):
        with pytest.raises(FileNotFoundError):
            run_cell(Cell("t", 0, {}, untrained), inputs)
    assert (taken / "file").read_text() == "mine"
    assert (untrained.run_dir.with_name("run.a.2") / "inputs").read_text() == "a\n"


@pytest.mark.parametrize("options", [{"starts": (None,)}, {"keep_student": True}])
def test_a_finished_run_whose_student_is_missing_is_run_again(untrained, verbs, options):
    keep_student = options.pop("keep_student", False)
    cell, run_dir = Cell("t", 0, {}, untrained, **options), untrained.run_dir
    run_dir.mkdir()
    (run_dir / RESULT_NAME).write_text(json.dumps({"fingerprint": "a", "measures": {}, "teacher": {}, "seconds": 1.0}))
    with pytest.raises(FileNotFoundError):
        run_cell(cell, "a", keep_student=keep_student)
    assert [name for name, _ in verbs] == ["train", "evaluate", "export"]
    verbs.clear()
    (run_dir / "student").mkdir()
    (run_dir / "student" / "config.json").write_text("{}")
    run_cell(cell, "a", keep_student=keep_student)
    assert not verbs


def test_a_cell_ends_when_its_study_does(untrained, verbs, monkeypatch):
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    reading, writing = os.pipe()

    def train_until_told(_):
        os.close(writing)
        deadline = time.monotonic() + 60
        while not came and time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(train, "run", train_until_told)
    try:
        with pytest.raises(FileNotFoundError):
            run_cell(Cell("t", 0, {}, untrained), "print", lifeline=reading)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert came
