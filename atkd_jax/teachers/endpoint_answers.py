"""What servers answer when they are asked for the log probabilities of a given text, and how each is asked.

- vLLM has them for a whole prompt at once: `prompt_logprobs` of `v1/completions`, by token id, the prompt's own token
  always among them.
- Servers that know `echo` and `logprobs` of OpenAI's older interface have them too, if they name tokens by id.
- llama.cpp has none for a prompt, but those of the next token: its own `completion` is asked once for each, and keeps
  what it has read of the prompt meanwhile.

In every case the prompt goes there as ids, so that no second tokenizer has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError

Body = dict[str, Any]
Answer = Mapping[str, Any]
# Of one position: log p by token id. The predicted token is among them.
LogProbs = dict[int, float]
Post = Callable[[str, Body], Answer]


def ask_vllm(post: Post, example: EncodedExample, *, model: str, k: int, vocab_size: int) -> list[LogProbs]:
    """Returns the log probabilities at every target, from one request to `v1/completions`.

    Raises:
        InputError: the answer is not vLLM's, or is of other tokens.
    """
    tokens = example.tokens.tolist()
    body = {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": k}
    answer = post("v1/completions", body | {"return_token_ids": True})
    choice = _choice(answer)
    returned = choice.get("prompt_token_ids")
    if returned is not None and list(returned) != tokens:
        raise InputError(_other_tokens(example, returned))
    positions = choice.get("prompt_logprobs")
    if not isinstance(positions, list):
        raise InputError(
            "teacher.endpoint must answer with prompt_logprobs, as vLLM does, but its choice has only "
            f"{sorted(choice)}; set teacher.endpoint_options.api to echo or llama_cpp for another server."
        )
    _require_length(example, len(positions))
    return [_by_id(example, at, positions[at]) for at in _targets(example)]


def ask_echo(post: Post, example: EncodedExample, *, model: str, k: int, vocab_size: int) -> list[LogProbs]:
    """Returns the log probabilities at every target, from the echo of one request to `v1/completions`.

    Raises:
        InputError: the answer has no echo, does not name tokens by id, or is of other tokens.
    """
    tokens = example.tokens.tolist()
    body = {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 1.0, "echo": True, "logprobs": k}
    answer = post("v1/completions", body | {"return_tokens_as_token_ids": True})
    echoed = _choice(answer).get("logprobs")
    echoed = echoed if isinstance(echoed, dict) else {}
    names, own, top = (echoed.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    if min(len(names), len(own), len(top)) < len(tokens):
        raise InputError(
            "teacher.endpoint must echo the prompt's tokens with their log probabilities, but its answer has none; set "
            "teacher.endpoint_options.api to vllm or llama_cpp, or use a server that knows `echo`."
        )
    returned = [_token_id(name) for name in names[: len(tokens)]]
    if returned != tokens:
        raise InputError(_other_tokens(example, returned))
    return [_of_echo(example, at, own[at], top[at]) for at in _targets(example)]


def ask_llama_cpp(post: Post, example: EncodedExample, *, model: str, k: int, vocab_size: int) -> list[LogProbs]:
    """Returns the log probabilities at every target, from one request to `completion` for each.

    Where the predicted token is none of the k likeliest, the position is asked for all of them.

    Raises:
        InputError: the answer is not llama.cpp's.
    """
    tokens, found = example.tokens.tolist(), []
    for at in _targets(example):
        of_next = _next_log_probs(post, tokens[:at], k)
        if tokens[at] not in of_next:
            whole = _next_log_probs(post, tokens[:at], vocab_size)
            if tokens[at] not in whole:
                raise InputError(_other_tokens(example, []))
            of_next = of_next | {tokens[at]: whole[tokens[at]]}
        found.append(of_next)
    return found


APIS = {"vllm": ask_vllm, "echo": ask_echo, "llama_cpp": ask_llama_cpp}


def _next_log_probs(post: Post, prompt: Sequence[int], count: int) -> LogProbs:
    body = {"prompt": list(prompt), "n_predict": 1, "n_probs": count, "cache_prompt": True, "stream": False}
    answer = post("completion", body | {"post_sampling_probs": False})
    try:
        return {int(entry["id"]): float(entry["logprob"]) for entry in _first_position(answer)}
    except (LookupError, TypeError, ValueError):
        raise InputError(
            "teacher.endpoint must answer with completion_probabilities and their top_logprobs, as llama.cpp does, but "
            f"has {sorted(answer)}; set teacher.endpoint_options.api to vllm or echo, or update llama.cpp."
        ) from None


def _first_position(answer: Answer) -> list[Mapping[str, Any]]:
    return answer["completion_probabilities"][0]["top_logprobs"]


def _targets(example: EncodedExample) -> list[int]:
    return np.flatnonzero(example.loss_mask).tolist()


def _choice(answer: Answer) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise InputError(
            f"teacher.endpoint must answer with choices, as OpenAI's completions do, but has {sorted(answer)}; give "
            "the address up to and with the version, such as http://localhost:8000/v1."
        )
    return choices[0]


def _of_echo(example: EncodedExample, at: int, own: Any, top: Any) -> LogProbs:
    try:
        others = {_token_id(name): float(value) for name, value in (top or {}).items()}
        return {int(example.tokens[at]): float(own)} | others
    except (AttributeError, TypeError):
        raise InputError(_no_numbers(example, at, top)) from None


def _by_id(example: EncodedExample, at: int, entries: Any) -> LogProbs:
    token = int(example.tokens[at])
    try:
        found = {int(name): float(entry["logprob"]) for name, entry in entries.items()}
    except (AttributeError, LookupError, TypeError, ValueError):
        raise InputError(_no_numbers(example, at, entries)) from None
    if token not in found:
        raise InputError(_other_tokens(example, sorted(found)))
    return found


def _token_id(name: str) -> int:
    prefix, _, number = str(name).partition(":")
    if prefix != "token_id" or not number.isdigit():
        raise InputError(
            f"teacher.endpoint must name tokens by id, as token_id:7, but names one {name!r}, which may stand for "
            "several; use a server that knows return_tokens_as_token_ids, or teacher.endpoint_options.api vllm."
        )
    return int(number)


def _no_numbers(example: EncodedExample, at: int, came: Any) -> str:
    return (
        f"teacher.endpoint must give log probabilities by token id at every token, but at token {at} of example "
        f"{example.number} it has {str(came)[:80]!r}; look at the server's version."
    )


def _require_length(example: EncodedExample, length: int) -> None:
    if length != len(example.tokens):
        raise InputError(
            f"teacher.endpoint must answer for all {len(example.tokens)} tokens of example {example.number}, but "
            f"answers for {length}; raise the server's longest sequence, or lower data.sequence_length."
        )


def _other_tokens(example: EncodedExample, returned: Sequence[int]) -> str:
    shown = f"{list(returned)[:6]}..." if returned else "none of them"
    return (
        f"teacher.endpoint must speak of the tokens that it was sent, {example.tokens.tolist()[:6]}... of example "
        f"{example.number}, but speaks of {shown}; serve the model whose tokenizer teacher.model names."
    )
