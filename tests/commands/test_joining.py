import pytest

from atkd_jax.commands import joining
from atkd_jax.commands.joining import join
from atkd_jax.config import Config, DistributedConfig


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(joining, "join_processes", lambda **arguments: calls.append(arguments))
    return calls


def config(**changes):
    return Config.model_validate({"student": {"layers": 2}} | changes)


def test_the_processs_own_place_is_used_and_not_kept(asked):
    place = {"coordinator_address": "a:1", "num_processes": 3, "process_id": 1, "join_timeout_seconds": 9}
    kept = join(config(distributed=place))
    assert kept.distributed == DistributedConfig()
    assert kept == config()
    (call,) = asked
    assert (call["coordinator_address"], call["num_processes"], call["process_id"]) == ("a:1", 3, 1)
    assert (call["timeout_seconds"], call["detect"]) == (9, True)


def test_processes_may_differ_in_their_number_and_cache_and_in_nothing_else(asked):
    for number, changes in enumerate(({}, {"cache_dir": "/elsewhere"}, {"seed": 1}, {"run_dir": "other"})):
        join(config(**changes, distributed={"process_id": number}))
    first, cache, seed, run_dir = (call["facts"]["config"] for call in asked)
    assert first == cache
    assert len({first, seed, run_dir}) == 3
