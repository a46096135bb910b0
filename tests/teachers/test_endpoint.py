"""A served teacher against its own distributions, through a server that fails."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_model import ServedModel

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError
from atkd_jax.interop.openai_client import EndpointError, OpenAIClient
from atkd_jax.teachers.endpoint import EndpointTeacher, top_k_arrays

FAULTS = [429, (503, {"Retry-After": "0"}), 500, "half", "hang up", "html"]


def examples(count=12):
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        tokens = rng.integers(0, 10, rng.integers(4, 8)).astype(np.int32)
        found.append(EncodedExample(tokens, np.arange(len(tokens)) >= 2, False, number))
    return found


def teacher(server, *, api="vllm", in_flight=3, k=3, **options):
    root = server.url.removesuffix("/v1")
    client = OpenAIClient(root, **{"sleep": lambda _: None, "timeout_seconds": 5.0} | options)
    return EndpointTeacher(client, api=api, model="served", k=k, vocab_size=10, in_flight=in_flight)


@pytest.fixture
def served(openai_server):
    model = ServedModel()
    openai_server.answer = lambda path, body: model.answer(path.removeprefix("/"), body)
    return model


@pytest.mark.parametrize("api", ["vllm", "echo", "llama_cpp"])
def test_records_are_those_of_the_model(openai_server, served, api):
    for example, arrays in teacher(openai_server, api=api).in_order(examples(3)):
        for row, at in enumerate(np.flatnonzero(example.loss_mask)):
            log_probs = served.log_probs(example.tokens[:at])
            target = example.tokens[at]
            order = np.argsort(-log_probs)[:3]
            np.testing.assert_array_equal(arrays["ids"][row], order)
            np.testing.assert_allclose(arrays["log_probs"][row], log_probs[order], rtol=1e-6)
            np.testing.assert_allclose(arrays["target_log_prob"][row], log_probs[target], rtol=1e-6)
            np.testing.assert_allclose(arrays["log_uncertainty"][row], np.log1p(-np.exp(log_probs[target])), rtol=1e-5)
            rest = 1 - np.exp(log_probs[order]).sum()
            np.testing.assert_allclose(np.exp(arrays["log_rest_mass"][row]), rest, rtol=1e-5)
            others = np.delete(np.exp(log_probs), target)
            others /= others.sum()
            assert arrays["rest_entropy"][row] <= -(others * np.log(others)).sum() + 1e-6


def test_nothing_is_lost_or_doubled_whatever_fails(openai_server, served):
    """Every fault twice, on several threads: each example's answer once, in order, and the same as without faults."""
    expected = list(teacher(openai_server).in_order(examples()))
    openai_server.faults = FAULTS * 2
    openai_server.requests.clear()
    got = list(teacher(openai_server, attempts=20).in_order(examples()))
    assert [example.number for example, _ in got] == list(range(12))
    for (_, mine), (_, theirs) in zip(got, expected, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert len(openai_server.requests) == 12 + len(FAULTS * 2)


def test_a_silent_server_is_asked_again(openai_server, served):
    silent = threading.Event()
    answer, asked = openai_server.answer, []

    def first_is_silent(path, body):
        asked.append(body)
        if len(asked) == 1:
            silent.wait(5)
        return answer(path, body)

    openai_server.answer = first_is_silent
    own = teacher(openai_server, timeout_seconds=0.2, in_flight=1)
    assert [example.number for example, _ in own.in_order(examples(2))] == [0, 1]
    silent.set()
    assert len(asked) == 3


def test_what_came_before_a_failure_is_had_and_the_rest_can_be_asked_later(openai_server, served):
    answer = openai_server.answer

    def refuses_the_fifth(path, body):
        if body["prompt"] == examples()[5].tokens.tolist():
            raise ConnectionAbortedError
        return answer(path, body)

    openai_server.answer = refuses_the_fifth
    got = []
    asked = teacher(openai_server, attempts=2).in_order(examples())
    with pytest.raises(EndpointError, match="none of 2 attempts was answered"):
        got.extend(example.number for example, _ in asked)
    assert got == [0, 1, 2, 3, 4]
    openai_server.answer = answer
    got += [example.number for example, _ in teacher(openai_server).in_order(examples()[len(got) :])]
    assert got == list(range(12))


def test_no_more_is_in_flight_than_allowed_and_dropped_examples_keep_their_place(openai_server, served):
    given = [None if number % 5 == 2 else example for number, example in enumerate(examples())]
    got = list(teacher(openai_server, in_flight=2).in_order(given))
    assert [example is None for example, _ in got] == [example is None for example in given]
    assert all((arrays is None) == (example is None) for example, arrays in got)
    assert openai_server.most_in_flight <= 2


def test_the_tokenizers_must_agree(openai_server, served):
    class Tokenizer:
        def encode(self, text, add_special_tokens):
            assert not add_special_tokens
            return served.tokenize(text)

    assert teacher(openai_server).require_tokenizer(Tokenizer())
    assert teacher(openai_server, api="llama_cpp").require_tokenizer(Tokenizer())
    served.tokenize = lambda text: [3, 1]
    Tokenizer.encode = lambda *_, **__: [1, 3]
    with pytest.raises(InputError, match=r"must have the tokenizer of teacher.model, but makes \[3, 1\] of 'def area"):
        teacher(openai_server).require_tokenizer(Tokenizer())
    openai_server.faults = [404]
    assert not teacher(openai_server).require_tokenizer(Tokenizer())
    openai_server.faults = [503] * 2
    with pytest.raises(EndpointError):
        teacher(openai_server, attempts=2).require_tokenizer(Tokenizer())


def test_a_refusal_is_the_servers_own_sentence(openai_server, served):
    openai_server.faults = [400]
    with pytest.raises(InputError, match="refuses with status 400"):
        list(teacher(openai_server, in_flight=1).in_order(examples(1)))


@given(
    logits=st.lists(st.floats(-30, 30), min_size=10, max_size=10),
    target=st.integers(0, 9),
    k=st.sampled_from([1, 3, 9]),
)
def test_masses_are_a_distribution_of_which_the_target_and_the_words_are_part(logits, target, k):
    """Also where the server's float32 numbers leave nothing, or less than nothing, to the others."""
    logits = np.array(logits)
    log_probs = (logits - logits.max()) - np.log(np.exp(logits - logits.max()).sum())
    served = log_probs.astype(np.float32)
    words = {*np.argsort(-served, kind="stable")[:k].tolist(), target}
    arrays = top_k_arrays([{word: float(served[word]) for word in words}], np.array([target]), k=k, vocab_size=10)
    assert all(np.isfinite(arrays[name]).all() for name in ("log_uncertainty", "rest_entropy", "log_rest_mass"))
    assert arrays["log_rest_mass"][0] <= 0
    has_target = target in arrays["ids"][0]
    # The rest holds the target where that is not listed.
    if not has_target:
        assert np.exp(arrays["log_rest_mass"][0]) >= np.exp(arrays["target_log_prob"][0]) * (1 - 1e-6)
    listed = np.exp(arrays["log_probs"][0], dtype=np.float64).sum()
    np.testing.assert_allclose(listed + np.exp(arrays["log_rest_mass"][0], dtype=np.float64), 1, atol=1e-6)
    np.testing.assert_allclose(
        np.exp(arrays["log_uncertainty"][0]) + np.exp(arrays["target_log_prob"][0]), 1, atol=1e-6
    )


def test_words_beyond_the_vocabulary_are_among_the_others():
    found = [{12: np.log(0.5), 3: np.log(0.3), 1: np.log(0.1)}]
    arrays = top_k_arrays(found, np.array([1]), k=3, vocab_size=10)
    np.testing.assert_array_equal(arrays["ids"], [[3, 1, -1]])
    np.testing.assert_allclose(np.exp(arrays["log_rest_mass"]), [0.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({0: 7.5, 3: 2.0}, "has 7.5 as the largest of 2"),
        ({0: -0.1, 3: -0.2}, r"whose probabilities add up to 1\.72"),
        ({0: -0.1, 3: float("nan")}, "as the largest of 2"),
    ],
)
def test_numbers_that_are_no_log_probabilities_are_refused(entries, message):
    whole = {0: -0.5, 3: -1.5}
    with pytest.raises(InputError, match=f"must give log probabilities at temperature 1, but at target 1 .*{message}"):
        top_k_arrays([whole, entries], np.array([0, 0]), k=2, vocab_size=10)
