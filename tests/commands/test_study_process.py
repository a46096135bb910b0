import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from atkd_jax.analysis.study_file import Study
from atkd_jax.commands import study_process
from atkd_jax.commands.study_process import CellProcess, Lock, log_of
from atkd_jax.errors import InputError

# Stands in for a cell: says what it was given, and ends when its lifeline does.
CELL = """
import os, sys
print(sys.argv[-1], os.environ.get("WHICH"), sorted(os.sched_getaffinity(0)), flush=True)
os.read(int(os.environ["ATKD_JAX_STUDY_LIFELINE"]), 1)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    real = subprocess.Popen

    def popen(command, **settings):
        return real([sys.executable, "-c", CELL, *command[1:]], **settings)

    monkeypatch.setattr(study_process.subprocess, "Popen", popen)

    def make(slot, **settings):
        cell = SimpleNamespace(key=f"a/{slot}", config=SimpleNamespace(run_dir=tmp_path / "a" / str(slot)))
        study = Study.model_validate({"directory": str(tmp_path)} | settings)
        with Lock(tmp_path) as lock:
            return cell, CellProcess(cell, slot, study, words=["x.yaml"], lock=lock)  # pyright: ignore[reportArgumentType]

    return make


def ended(process):
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process.poll()


def test_a_cell_has_its_log_its_variables_and_its_share_and_ends_with_its_lifeline(start):
    environments = [{"WHICH": "first"}, {"WHICH": "second"}]
    cell, process = start(1, processes=2, environments=environments)
    while not (log_of(cell).exists() and log_of(cell).read_text()):
        time.sleep(0.01)
    assert process.poll() is None
    process.stop()
    process.stop()
    assert ended(process) == 0
    assert log_of(cell).read_text().startswith("--cell=a/1 second ")


def test_processes_share_the_processors():
    own = sorted(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            study_process._share_processors(child.pid, 0, 1)
            assert sorted(os.sched_getaffinity(child.pid)) == own
            if len(own) > 1:
                shares = []
                for slot in range(2):
                    study_process._share_processors(child.pid, slot, 2)
                    shares += sorted(os.sched_getaffinity(child.pid))
                assert shares == own
        finally:
            child.kill()


def test_a_second_study_is_refused_while_cells_of_the_first_work(start, tmp_path):
    _, process = start(0)
    with pytest.raises(InputError, match=r"another study works in .*, or cells of one that was killed"), Lock(tmp_path):
        pass
    process.stop()
    assert ended(process) == 0
    with Lock(tmp_path) as lock:
        assert Path(f"/proc/self/fd/{lock}").exists()
