"""Each server's form of answer, and what is no such answer."""

import numpy as np
import pytest
from served_model import ServedModel

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError
from atkd_jax.teachers.endpoint_answers import APIS

ASKED = {"model": "served", "k": 3, "vocab_size": 10}


def example():
    return EncodedExample(np.array([1, 4, 2, 7], np.int32), np.array([False, False, True, True]), False, 5)


@pytest.mark.parametrize("api", APIS)
def test_every_server_says_the_same(api):
    """The k likeliest and the target, whether or not it is among them."""
    served = ServedModel()
    found = APIS[api](served.answer, example(), **ASKED)
    for at, entries in zip((2, 3), found, strict=True):
        log_probs = served.log_probs(example().tokens[:at])
        expected = {*np.argsort(-log_probs)[:3].tolist(), int(example().tokens[at])}
        assert set(entries) == expected
        np.testing.assert_allclose([entries[word] for word in expected], log_probs[list(expected)], rtol=1e-6)


def test_llama_cpp_is_asked_for_all_words_only_where_the_target_is_not_among_the_likeliest():
    served = ServedModel()
    served.asked = []
    APIS["llama_cpp"](served.answer, example(), **ASKED)
    targets_listed = [
        int(example().tokens[at]) in np.argsort(-served.log_probs(example().tokens[:at]))[:3] for at in (2, 3)
    ]
    counts = [body["n_probs"] for body in served.asked]
    expected = [count for listed in targets_listed for count in ([3] if listed else [3, 10])]
    assert counts == expected
    assert 10 in counts


def spoiled(change):
    served = ServedModel()

    def post(path, body):
        answer = served.answer(path, body)
        change(answer)
        return answer

    return post


@pytest.mark.parametrize(
    ("api", "change", "message"),
    [
        ("vllm", lambda answer: answer.pop("choices"), "must answer with choices, as OpenAI's completions do"),
        ("vllm", lambda answer: answer["choices"][0].pop("prompt_logprobs"), "must answer with prompt_logprobs"),
        ("vllm", lambda answer: answer["choices"][0]["prompt_logprobs"].pop(), "for all 4 tokens of example 5, but an"),
        ("vllm", lambda answer: answer["choices"][0].update(prompt_token_ids=[0, 1]), r"speaks of \[0, 1\]"),
        (
            "vllm",
            lambda answer: answer["choices"][0]["prompt_logprobs"].__setitem__(2, None),
            "at token 2 of example 5",
        ),
        ("vllm", lambda answer: answer["choices"][0]["prompt_logprobs"][2].pop("2"), "must speak of the tokens that"),
        ("echo", lambda answer: answer["choices"][0].pop("logprobs"), "must echo the prompt's tokens"),
        ("echo", lambda answer: answer["choices"][0]["logprobs"]["tokens"].__setitem__(1, " a"), "names one ' a'"),
        (
            "echo",
            lambda answer: answer["choices"][0]["logprobs"]["top_logprobs"].pop(),
            "must echo the prompt's tokens",
        ),
        (
            "echo",
            lambda answer: answer["choices"][0]["logprobs"]["token_logprobs"].__setitem__(3, None),
            "must give log probabilities by token id at every token, but at token 3",
        ),
        (
            "echo",
            lambda answer: answer["choices"][0]["logprobs"]["tokens"].__setitem__(1, "token_id:9"),
            r"speaks of \[1, 9, 2, 7\]",
        ),
        (
            "llama_cpp",
            lambda answer: answer.pop("completion_probabilities"),
            "must answer with completion_probabilities",
        ),
    ],
)
def test_what_is_no_such_answer_is_a_sentence(api, change, message):
    with pytest.raises(InputError, match=message):
        APIS[api](spoiled(change), example(), **ASKED)
