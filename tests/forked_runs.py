"""Starts real processes of launch.py quickly, to be killed, signalled and joined; a pytest plugin for every room.

One process imports everything once and forks a child for each start, before any device is touched, so that a start
costs about two seconds where it would cost eight.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compilation import FLAGS

ROOT = Path(__file__).parent.parent

FORKING = """
import json, os, sys, time, traceback
import jax
import atkd_jax.commands.evaluate, atkd_jax.commands.train
from atkd_jax.commands.main import main
from atkd_jax.training import peaks

peaks._SIZES = (128,)  # A peak that no test asks for is not worth most of a second of every start.

def child(order):
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ.update(order["env"])
    exec(order["before"], {})
    code = 1
    try:
        code = main(order["start"])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        jax.distributed.shutdown()  # As at the end of a program that was not forked.
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

def ended(pid, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)

for line in sys.stdin:
    order = json.loads(line)
    if "start" in order:
        pid = os.fork()
        if not pid:
            child(order)
        print(json.dumps(pid), flush=True)
    else:
        print(json.dumps(ended(order["wait"], order["seconds"])), flush=True)
"""


class Run:
    """One process."""

    def __init__(self, ask, pid, log):
        self._ask, self.pid, self._log, self.code = ask, pid, log, None

    @property
    def output(self):
        return self._log.read_text() if self._log.exists() else ""

    def signal(self, number):
        os.kill(self.pid, number)

    def ended(self, seconds=0.01):
        """The exit code, None while it runs; negative for the signal that killed it."""
        if self.code is None:
            self.code = self._ask({"wait": self.pid, "seconds": seconds})
        return self.code

    def wait(self, seconds=300):
        code = self.ended(seconds)
        if code is None:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}")
        return code

    def kill(self):
        """kill -9, unless it has ended."""
        if self.ended() is None:
            self.signal(signal.SIGKILL)
            self.wait()


class Launcher:
    """Starts `launch.py` with some words, once or as several processes of one run."""

    def __init__(self, directory):
        self._directory, self._count, self.running = directory, 0, []
        self._forking = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, words, *, devices=1, before="", env=None):
        """Starts one process; `before` is Python that runs in it first."""
        self._count += 1
        log = self._directory / f"{self._count}.log"
        flags = f"{FLAGS} --xla_force_host_platform_device_count={devices}"
        order = {"start": list(words), "env": {"XLA_FLAGS": flags} | (env or {}), "before": before, "log": str(log)}
        run = Run(self._ask, self._ask(order), log)
        self.running.append(run)
        return run

    def start_many(self, words, processes, *, devices=1, before="", started=None, timeout_seconds=100):
        """Starts the processes of one run, or those numbers of them that are named."""
        address = f"127.0.0.1:{free_port()}"
        settings = [f"--distributed.coordinator_address={address}", f"--distributed.num_processes={processes}"]
        settings.append(f"--distributed.join_timeout_seconds={timeout_seconds}")
        numbers = range(processes) if started is None else started
        return [
            self.start([*words, *settings, f"--distributed.process_id={number}"], devices=devices, before=before)
            for number in numbers
        ]

    def finish(self, runs, expected=0):
        """Waits for processes and asserts that each ended with this code."""
        for run in runs:
            assert run.wait() == expected, "\n".join(each.output for each in runs)

    def kill_all(self):
        while self.running:
            self.running.pop().kill()

    def close(self):
        self.kill_all()
        self._forking.stdin.close()
        self._forking.wait()
        self._forking.stdout.close()

    def _ask(self, order):
        self._forking.stdin.write(json.dumps(order) + "\n")
        self._forking.stdin.flush()
        return json.loads(self._forking.stdout.readline())


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def wait_until(condition, runs, seconds=300.0):
    """Waits until something holds while some processes run."""
    deadline = time.monotonic() + seconds
    while not condition():
        for run in runs:
            assert run.ended(0.001) is None, run.output
        assert time.monotonic() < deadline, "\n".join(run.output for run in runs)
        time.sleep(0.005)


def lines_of(run_dir):
    """How many lines of metrics a run has written."""
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="session")
def _session_launcher(tmp_path_factory):
    launcher = Launcher(tmp_path_factory.mktemp("launched"))
    yield launcher
    launcher.close()


@pytest.fixture
def launcher(_session_launcher):
    yield _session_launcher
    _session_launcher.kill_all()


@pytest.fixture(scope="session")
def tiny_run_words(tmp_path_factory, tiny_teacher_directory):
    """The words of a tiny run of eight steps in two micro-batches, packed; `run_dir` is to be added."""
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"def add(x):\n    return x + {a}\n"} for a in range(40)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        "train",
        f"--teacher.model={tiny_teacher_directory}",
        f"--cache_dir={pairs.parent / 'cache'}",
        "--student.layers=2",
        f"--data.source={pairs}",
        "--data.sequence_length=64",
        "--training.batch_size=8",
        "--training.microbatches=2",
        "--training.steps=8",
        "--checkpoint.every_steps=2",
        "--optimizer.warmup_steps=1",
        # A large epsilon keeps Adam from making whole steps out of the rounding of gradients that are nearly 0.
        "--optimizer.eps=1e-2",
    ]
