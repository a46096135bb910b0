import os
import signal
import time

import pytest

from atkd_jax.analysis.grid import Cell
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
    for is_needed in (False, True):
        # There are no metrics here to make a result of.
        with pytest.raises(FileNotFoundError):
            run_cell(Cell("t", 0, {}, untrained, is_needed=is_needed), "print")
    with pytest.raises(FileNotFoundError):
        run_cell(Cell("t", 0, {}, untrained), "print", keep_student=True)
    names = [name for name, _ in verbs]
    assert names == ["train", "evaluate", "train", "evaluate", "export", "train", "evaluate", "export"]
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
