"""Waits until every process of a run is there, and says who is missing, on which host who is, and who differs.

jax's own start-up ends a process without a name when another one never comes. So the processes meet here first, on the
port that jax's coordinator takes over a moment later: no other port has to be open.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from atkd_jax.errors import InputError

_RETRY_SECONDS = 0.1
_LONGEST_LINE = 65_536
# One line is sent right after connecting; who does not is no process of ours.
_LINE_SECONDS = 5.0
# Beyond the set time, for the verdict on its way.
_VERDICT_SECONDS = 15.0


class _Present(NamedTuple):
    connection: socket.socket | None
    facts: dict[str, Any]


def call_roll(
    address: str, *, process_id: int, num_processes: int, timeout_seconds: float, facts: Mapping[str, Any]
) -> None:
    """Returns when all processes have come, on each of them.

    Process 0 listens and decides; its verdict reaches all that came. The port is free again when this returns.

    Args:
        address: `host:port` of process 0.
        process_id: The number of this process, from 0.
        num_processes: How many there are.
        timeout_seconds: How long to wait for the others, from this process's call on.
        facts: What must be the same in all processes, by name, as JSON has it.

    Raises:
        InputError: Some process did not come in time, or two claim one number, or their facts differ; or this one
            could not reach process 0, or process 0 cannot listen.
    """
    deadline = time.monotonic() + timeout_seconds
    own = {"process": process_id, "of": num_processes, "host": socket.gethostname(), "facts": dict(facts)}
    if process_id == 0:
        problem = _decide(address, own, deadline, timeout_seconds)
    else:
        problem = _ask(address, own, deadline, timeout_seconds)
    if problem:
        raise InputError(problem)


def _decide(address: str, own: dict[str, Any], deadline: float, timeout_seconds: float) -> str | None:
    count = own["of"]
    present = {0: _Present(None, own)}
    turned_away: list[_Present] = []
    problem = None
    with _listening(address) as listener, contextlib.ExitStack() as connections:
        while problem is None and len(present) < count and time.monotonic() < deadline:
            arrival = _next_arrival(listener, deadline)
            if arrival is None:
                continue
            if arrival.connection is not None:
                connections.callback(_close_after_the_other_side, arrival.connection)
            problem = _objection(arrival.facts, own, present)
            if problem is None:
                present[arrival.facts["process"]] = arrival
            else:
                turned_away.append(arrival)
            if len(present) == count:
                _forget_the_gone(present)
        if problem is None and len(present) < count:
            problem = _who_is_missing(present, count, timeout_seconds)
        for one in [*present.values(), *turned_away]:
            if one.connection is not None:
                with contextlib.suppress(OSError):
                    one.connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    return problem


@contextlib.contextmanager
def _listening(address: str):
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, backlog=4096, dualstack_ipv6=dual)
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} ({os.strerror(error.errno or 0)}), where the other processes look "
            "for it; end what holds the port, or give all processes another distributed.coordinator_address"
        ) from None
    with listener:
        yield listener


def _next_arrival(listener: socket.socket, deadline: float) -> _Present | None:
    """The next process that introduces itself, None where time is up or it was something else."""
    listener.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return None
    connection.settimeout(_LINE_SECONDS)
    facts = _read_line(connection)
    known = isinstance(facts, dict) and {"process", "of", "host", "facts"} <= facts.keys()
    if not known or not isinstance(facts["process"], int):
        connection.close()
        return None
    return _Present(connection, facts)


def _objection(facts: dict[str, Any], own: dict[str, Any], present: Mapping[int, _Present]) -> str | None:
    name = f"process {facts['process']} on {facts['host']}"
    if facts["of"] != own["of"] or not 0 <= facts["process"] < own["of"]:
        return (
            f"{name} counts {facts['of']} processes and process 0 on {own['host']} counts {own['of']}: give all the "
            "same distributed.num_processes"
        )
    if facts["process"] in present:
        other = present[facts["process"]].facts["host"]
        return (
            f"two processes, on {other} and on {facts['host']}, have the number {facts['process']}: give each its own "
            "distributed.process_id"
        )
    for fact, expected in own["facts"].items():
        if facts["facts"].get(fact) != expected:
            return (
                f"{name} has another {fact} than process 0 on {own['host']} ({facts['facts'].get(fact)} and "
                f"{expected}): start all processes from the same files with the same command"
            )
    return None


def _forget_the_gone(present: dict[int, _Present]) -> None:
    """Leaves those out that came and went while the last ones were waited for."""
    for number, one in list(present.items()):
        if one.connection is not None and select.select([one.connection], [], [], 0)[0]:
            del present[number]


def _who_is_missing(present: Mapping[int, _Present], count: int, timeout_seconds: float) -> str:
    missing = [str(number) for number in range(count) if number not in present]
    came = ", ".join(f"{number} on {one.facts['host']}" for number, one in sorted(present.items()))
    return (
        f"{len(missing)} of {count} processes did not join within {timeout_seconds:g} s: missing {', '.join(missing)} "
        f"(there are {came}); see on their hosts why they did not start, or raise distributed.join_timeout_seconds"
    )


def _ask(address: str, own: dict[str, Any], deadline: float, timeout_seconds: float) -> str | None:
    host, _, port = address.rpartition(":")
    name = f"process {own['process']} on {own['host']}"
    why = "it gave no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_LINE_SECONDS) as connection:
                connection.sendall(json.dumps(own).encode() + b"\n")
                connection.settimeout(max(deadline - time.monotonic(), 0.0) + _VERDICT_SECONDS)
                verdict = _read_line(connection)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            if isinstance(verdict, dict) and "problem" in verdict:
                return verdict["problem"]
        time.sleep(_RETRY_SECONDS)
    return (
        f"{name} could not reach process 0 at {address} within {timeout_seconds:g} s ({why}); see whether process 0 "
        "started, and whether this host may open a connection to that port"
    )


def _read_line(connection: socket.socket) -> Any:
    """The JSON value of one line, None where there is none."""
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < _LONGEST_LINE:
            part = connection.recv(4096)
            if not part:
                return None
            received += part
        return json.loads(received)
    except (OSError, ValueError):
        return None


def _close_after_the_other_side(connection: socket.socket) -> None:
    """So that it is the other side's port, not the one that jax is about to take, which stays reserved a while."""
    with contextlib.suppress(OSError):
        connection.settimeout(_LINE_SECONDS)
        connection.recv(1)
    connection.close()
