import contextlib
import json
import socket
import threading

import pytest

from atkd_jax.errors import InputError
from atkd_jax.sharding.roll_call import call_roll

FACTS = {"config": "a1b2"}


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def verdicts(address, calls, *, timeout_seconds=20.0):
    """What each of some processes, each in a thread, hears: None, or the error's words."""
    heard = {}

    def one(number, changes):
        arguments = {"process_id": number, "num_processes": 3, "facts": FACTS} | changes
        try:
            call_roll(address, timeout_seconds=timeout_seconds, **arguments)
            heard[number] = None
        except InputError as error:
            heard[number] = str(error)

    threads = [threading.Thread(target=one, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [heard[number] for number in range(len(calls))]


def test_all_that_come_go_on_and_the_port_is_free_again(address):
    for _ in range(3):
        assert verdicts(address, [{}, {}, {}]) == [None, None, None]
    port = int(address.rpartition(":")[2])
    with socket.create_server(("", port)):
        pass


def test_who_is_missing_is_told_to_all_that_came(address):
    heard = verdicts(address, [{}, {}], timeout_seconds=0.7)
    host = socket.gethostname()
    assert heard[0] == heard[1]
    assert heard[0].startswith(
        f"1 of 3 processes did not join within 0.7 s: missing 2 (there are 0 on {host}, 1 on {host}); see on their"
    )
    assert heard[0].endswith("raise distributed.join_timeout_seconds")


def test_without_process_0_the_others_say_whom_they_looked_for(address):
    with pytest.raises(InputError, match=rf"process 2 on .* could not reach process 0 at {address} within 0.4 s \("):
        call_roll(address, process_id=2, num_processes=3, timeout_seconds=0.4, facts=FACTS)


def test_another_config_is_named(address):
    heard = verdicts(address, [{}, {"facts": {"config": "ffff"}}], timeout_seconds=5.0)
    assert heard[0] == heard[1]
    assert "process 1 on" in heard[0]
    assert "has another config than process 0" in heard[0]
    assert "(ffff and a1b2): start all processes from the same files" in heard[0]


def test_two_of_one_number_and_another_count_are_refused(address):
    heard = verdicts(address, [{}, {}, {"process_id": 1}], timeout_seconds=5.0)
    assert "have the number 1: give each its own distributed.process_id" in heard[0]
    heard = verdicts(address, [{}, {"num_processes": 2}], timeout_seconds=5.0)
    assert "counts 2 processes and process 0 on" in heard[0]
    assert "give all the same distributed.num_processes" in heard[1]


def test_a_taken_port_is_a_sentence(address):
    port = int(address.rpartition(":")[2])
    with (
        socket.create_server(("", port)),
        pytest.raises(InputError, match=rf"cannot listen on port {port} \(Address already in use\)"),
    ):
        call_roll(address, process_id=0, num_processes=2, timeout_seconds=1.0, facts=FACTS)


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\n", b"[1, 2]\n", b"", json.dumps({"process": "x"}).encode() + b"\n"])
def test_a_stranger_at_the_port_changes_nothing(address, line):
    def knock():
        host, port = address.rsplit(":", 1)
        for _ in range(100):
            try:
                with socket.create_connection((host, int(port)), timeout=1.0) as connection:
                    connection.sendall(line)
                return
            except OSError:
                threading.Event().wait(0.02)

    stranger = threading.Thread(target=knock)
    stranger.start()
    arguments = {"process_id": 2, "num_processes": 3, "timeout_seconds": 9.0, "facts": FACTS}
    last = threading.Timer(0.4, lambda: call_roll(address, **arguments))
    last.start()
    assert verdicts(address, [{}, {}], timeout_seconds=9.0) == [None, None]
    stranger.join()
    last.join()


def test_who_came_and_went_has_to_come_again(address):
    host, port = address.rsplit(":", 1)

    def come_and_go():
        for _ in range(100):
            try:
                with socket.create_connection((host, int(port)), timeout=1.0) as connection:
                    facts = {"process": 1, "of": 3, "host": "gone", "facts": FACTS}
                    connection.sendall(json.dumps(facts).encode() + b"\n")
                break
            except OSError:
                threading.Event().wait(0.02)
        # Only once it is gone does the last one come, and with it the question who is there.
        with contextlib.suppress(InputError):
            call_roll(address, process_id=2, num_processes=3, timeout_seconds=1.5, facts=FACTS)

    others = threading.Thread(target=come_and_go)
    others.start()
    with pytest.raises(InputError, match=r"1 of 3 processes did not join within 1.5 s: missing 1"):
        call_roll(address, process_id=0, num_processes=3, timeout_seconds=1.5, facts=FACTS)
    others.join()
