import email.utils
import threading
import time

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.openai_client import EndpointError, OpenAIClient, api_key_from


def client(server, **changes):
    """A client and the list of its waits, which take no time."""
    waits = []
    return OpenAIClient(server.url, **{"sleep": waits.append, "timeout_seconds": 5.0} | changes), waits


def test_json_goes_there_and_back_with_the_key(openai_server):
    own, waits = client(openai_server, api_key="secret")
    with own:
        assert own.post("chat/completions", {"a": 1}) == {"path": "chat/completions", "echo": {"a": 1}}
        assert own.get("models")["path"] == "models"
    assert (openai_server.keys, waits) == (["Bearer secret"] * 2, [])


@pytest.mark.parametrize("fault", [429, 500, 503, "hang up", "half", "html"])
def test_what_passes_is_sent_again(fault, openai_server):
    openai_server.faults = [fault] * 2
    own, waits = client(openai_server)
    with own:
        assert own.post("x", {"n": 3})["echo"] == {"n": 3}
    assert [body for _, body in openai_server.requests] == [{"n": 3}] * 3
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_the_endpoint_may_say_how_long_to_wait_within_bounds(openai_server):
    date = email.utils.format_datetime(email.utils.localtime().replace(year=2000))
    openai_server.faults = [(429, {"Retry-After": value}) for value in ("7", "1000", date, "soon")]
    own, waits = client(openai_server, longest_wait_seconds=60)
    with own:
        own.post("x", {})
    assert waits[:2] == [7, 60]
    # A time that has passed, and no time at all, leave it at the client's own.
    assert 2 <= waits[2] <= 4 <= waits[3] <= 8


def test_attempts_end_and_the_key_is_in_no_message(openai_server):
    openai_server.faults = [503] * 3
    own, waits = client(openai_server, attempts=3, api_key="sk-secret")
    with own, pytest.raises(EndpointError, match="none of 3 attempts was answered; the last: status 503") as error:
        own.post("x", {})
    assert "[the key]" in str(error.value)
    assert "sk-secret" not in str(error.value)
    assert len(waits) == 2


def test_nobody_there_is_an_endpoint_error(openai_server):
    openai_server.close()
    own, _ = client(openai_server, attempts=2)
    with own, pytest.raises(EndpointError, match="ConnectionError"):
        own.post("x", {})


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "give a valid key"), (404, "the model's name"), (400, "settings")]
)
def test_a_refusal_is_final(status, advice, openai_server):
    openai_server.faults = [status]
    own, waits = client(openai_server)
    with own, pytest.raises(InputError, match=f"refuses with status {status}.*{advice}"):
        own.post("x", {})
    assert (len(openai_server.requests), waits) == (1, [])


def test_no_more_than_so_many_are_in_flight_and_every_answer_finds_its_number(openai_server):
    turn = threading.Semaphore(0)

    def answer(_, body):
        turn.release()
        time.sleep(0.02)
        return body

    openai_server.answer = answer
    taken = []

    def bodies():
        for number in range(12):
            taken.append(number)
            yield {"n": number}

    own, _ = client(openai_server, max_in_flight=3)
    with own:
        answers = own.post_all("x", bodies())
        number, first = next(answers)
        assert first == {"n": number}
        assert len(taken) <= 6
        assert {number: {"n": number}} | dict(answers) == {n: {"n": n} for n in range(12)}
    assert openai_server.most_in_flight == 3


def test_one_that_fails_does_not_stop_the_others(openai_server):
    openai_server.faults = [500, 500]
    own, _ = client(openai_server, attempts=1, max_in_flight=1)
    with own:
        found = dict(own.post_all("x", [{"n": n} for n in range(3)]))
    assert [isinstance(found[n], EndpointError) for n in range(3)] == [True, True, False]


def test_a_refusal_stops_all(openai_server):
    openai_server.faults = [401]
    own, _ = client(openai_server, max_in_flight=1)
    with own, pytest.raises(InputError, match="401"):
        list(own.post_all("x", [{}] * 5))
    assert len(openai_server.requests) == 1


@pytest.mark.parametrize(
    ("url", "settings", "sentence"),
    [
        ("localhost:8000", {}, "must start with http"),
        ("http://x", {"attempts": 0}, "attempts must be at least 1"),
        ("http://x", {"max_in_flight": 0}, "max_in_flight must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(url, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        OpenAIClient(url, **settings)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", " abc\n")
    assert api_key_from("SOME_KEY") == "abc"
    assert api_key_from(None) is None
    monkeypatch.setenv("SOME_KEY", "a b")
    with pytest.raises(InputError, match="holds white space"):
        api_key_from("SOME_KEY")
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY must hold the API key, but it is not set"):
        api_key_from("SOME_KEY")


def test_a_closed_client_does_not_wait_for_another_attempt(openai_server):
    openai_server.faults = [503] * 6
    own = OpenAIClient(openai_server.url, first_wait_seconds=60.0)
    began = time.monotonic()
    threading.Timer(0.1, own.close).start()
    with pytest.raises(EndpointError):
        own.post("x", {})
    assert time.monotonic() - began < 10
    assert len(openai_server.requests) <= 2


def test_requests_are_no_closer_than_their_rate(openai_server):
    """Also those that are sent again, over all threads; the waits take no time here, so that they add up."""
    openai_server.faults = [503]
    own, waits = client(openai_server, requests_per_second=0.01, first_wait_seconds=0.0)
    with own:
        list(own.post_all("x", [{}] * 3))
    waits = sorted(wait for wait in waits if wait)
    assert all(abs(wait - place * 100) < 5 for place, wait in enumerate(waits, start=1))
    assert len(waits) == 3


def test_a_rate_must_be_above_nothing(openai_server):
    with pytest.raises(InputError, match=r"endpoint: requests_per_second must be above 0, but 0\.0 came"):
        client(openai_server, requests_per_second=0.0)
