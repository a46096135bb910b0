"""What several real processes make of a directory is tested in tests/faults/test_many_processes.py."""

import fcntl
import subprocess
import sys
import threading
import time

import jax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.training import shared_directory
from atkd_jax.training.shared_directory import require_shared_directory, turn_on_this_host


@pytest.fixture
def two_processes(monkeypatch):
    """This process believes that it is the first of two, of which the other one says `others`."""
    others = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(shared_directory, "gathered", lambda value: [value, others.pop(0)])
    return others


def test_one_process_asks_nobody_and_writes_nothing(tmp_path):
    require_shared_directory(tmp_path / "run")
    with turn_on_this_host(tmp_path / "cache"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_all_see_is_left_as_it_was(tmp_path, two_processes):
    two_processes.extend([None, None, True])
    require_shared_directory(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_who_sees_another_directory_is_named(tmp_path, two_processes):
    two_processes.extend([None, None, False])
    with pytest.raises(InputError, match=r"one directory for all processes, but process 1 of 2 sees nothing of what"):
        require_shared_directory(tmp_path / "run")


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path, two_processes):
    (tmp_path / "file").touch()
    two_processes.extend([None, None, True])
    with pytest.raises(InputError, match=r"process 0 cannot write to run_dir .*file/run \(Not a directory\); choose"):
        require_shared_directory(tmp_path / "file" / "run")


def test_processes_of_one_host_take_turns(tmp_path, two_processes):
    holding = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / ".turn")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        passed = threading.Event()

        def take_turn():
            with turn_on_this_host(tmp_path):
                passed.set()

        thread = threading.Thread(target=take_turn)
        thread.start()
        time.sleep(0.2)
        assert not passed.is_set()
        other.stdin.write(b"\n")
        other.stdin.close()
        thread.join()
        assert passed.is_set()
    with (tmp_path / ".turn").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
