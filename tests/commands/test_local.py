import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from atkd_jax.commands import local
from atkd_jax.commands.local import run
from atkd_jax.commands.main import main
from atkd_jax.commands.verbs import LocalOptions
from atkd_jax.training.metrics import read_metrics


@pytest.fixture
def pretend(monkeypatch):
    """Lets `local` start Python code instead of a verb; NUMBER is the number of the process."""

    def install(code):
        original = subprocess.Popen

        def start(command, **arguments):
            number = command[-1].rpartition("=")[2]
            return original([sys.executable, "-c", f"NUMBER = {number}\n{code}"], **arguments)

        monkeypatch.setattr(local.subprocess, "Popen", start)

    return install


def test_two_processes_train_what_one_trains(tiny_run_words, tmp_path, capfd):
    one, two = tmp_path / "one", tmp_path / "two"
    # Eight devices share the eight rows here, one device a process has four rows in two parts there.
    assert main([*tiny_run_words, f"--run_dir={one}", "--training.microbatches=1"]) == 0
    capfd.readouterr()
    assert main(["local", "--processes", "2", *tiny_run_words, f"--run_dir={two}"]) == 0
    told = capfd.readouterr().out
    assert "step 8/8" in told
    assert "[1] step" not in told
    losses = [[line["loss"] for line in read_metrics(run_dir)] for run_dir in (one, two)]
    assert len(losses[0]) == 8
    np.testing.assert_allclose(*losses, rtol=1e-5)
    # What is kept of the run does not tell a later one to be one of two.
    assert "num_processes: null" in (two / "config.yaml").read_text()


def test_the_words_and_the_place_of_each_process(pretend, capfd):
    pretend("import os, sys; print(os.environ['XLA_FLAGS'].split()[-1], os.environ['JAX_PLATFORMS'])")
    run(LocalOptions(processes=3, devices_per_process=5, command=("train",)))
    line = "--xla_force_host_platform_device_count=5 cpu\n"
    assert sorted(capfd.readouterr().out.splitlines(keepends=True)) == sorted([line, f"[1] {line}", f"[2] {line}"])


def test_when_one_fails_its_code_is_given_and_the_others_do_not_stay(pretend, monkeypatch, capfd):
    monkeypatch.setattr(local, "_GRACE_SECONDS", 0.3)
    pretend("import sys, time\nif NUMBER == 1: sys.exit('no such file')\ntime.sleep(100)")
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        run(LocalOptions(processes=3, command=("train",)))
    assert stop.value.code == 1
    assert time.monotonic() - began < 30
    assert "[1] no such file" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process_once(pretend, number, tmp_path):
    pretend(
        "import pathlib, signal, sys, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "def handle(number, _):\n"
        "    with (place / f'came{NUMBER}').open('a') as file: file.write('x')\n"
        f"for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, handle)\n"
        "(place / f'ready{NUMBER}').touch()\n"
        "while not (place / f'came{NUMBER}').exists(): time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        f"sys.exit(128 + {int(number)})\n"
    )

    def send():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    with pytest.raises(SystemExit) as stop:
        run(LocalOptions(processes=2, command=("train",)))
    assert stop.value.code == 128 + number
    assert [(tmp_path / f"came{n}").read_text() for n in (0, 1)] == ["x", "x"]
