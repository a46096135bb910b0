"""`launch.py local`: a run of several processes on this machine, for trying out what a cluster would do."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from atkd_jax.commands.verbs import LocalOptions

# How long the others may take to end by themselves after one has failed.
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


def run(options: LocalOptions) -> None:
    """Starts the processes, passes Ctrl-C and SIGTERM on to them, and ends when all have ended.

    What process 0 prints is printed as it is; a line of another one begins with its number.

    Raises:
        SystemExit: With the code of the first process that failed, if one did.
    """
    address = f"127.0.0.1:{_free_port()}"
    started: list[subprocess.Popen[str]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in range(options.processes):
            started.append(_start(options, address=address, number=number))
        echoes = [_echo(number, process) for number, process in enumerate(started) if number]
        code = _wait(started)
        for thread in (thread for pair in echoes for thread in pair):
            thread.join()
    finally:
        for process in started:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code:
        raise SystemExit(code)


def _start(options: LocalOptions, *, address: str, number: int) -> subprocess.Popen[str]:
    words = [
        *options.command,
        f"--distributed.coordinator_address={address}",
        f"--distributed.num_processes={options.processes}",
        f"--distributed.process_id={number}",
    ]
    pipe = subprocess.PIPE if number else None
    return subprocess.Popen(
        [sys.executable, "-m", "atkd_jax.commands", *words],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=_environment(options.devices_per_process),
        # Of a session of their own, so that a terminal's Ctrl-C comes from here and only once.
        start_new_session=True,
    )


def _environment(devices: int) -> dict[str, str]:
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{flags.strip()} --xla_force_host_platform_device_count={devices}".strip()
    path = os.pathsep.join(part for part in sys.path if part)
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}


def _wait(started: Sequence[subprocess.Popen[str]]) -> int:
    """The code of the process that failed first, after whom the others are not waited for long; 0 if none did."""
    first_code, deadline = 0, None
    while any(process.poll() is None for process in started):
        failed = next((process.returncode for process in started if process.poll()), 0)
        if failed and deadline is None:
            first_code, deadline = failed, time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(_POLL_SECONDS)
    code = first_code or next((process.returncode for process in started if process.returncode), 0)
    # A shell counts a signal's number from 128 on.
    return 128 - code if code < 0 else code


def _echo(number: int, process: subprocess.Popen[str]) -> list[threading.Thread]:
    def copy(source: IO[str], target: IO[str]) -> None:
        with source:
            for line in source:
                target.write(f"[{number}] {line}")
                target.flush()

    pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    threads = [threading.Thread(target=copy, args=pair, daemon=True) for pair in pairs if pair[0] is not None]
    for thread in threads:
        thread.start()
    return threads


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
