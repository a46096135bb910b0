"""A teacher that others serve: top log probabilities of the data's text, over HTTP, as a cache keeps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.errors import InputError
from atkd_jax.interop.openai_client import EndpointError, OpenAIClient
from atkd_jax.teachers.endpoint_answers import APIS, LogProbs

Arrays = dict[str, np.ndarray]
# How far from 1 a server's arithmetic may leave a sum.
_SUM_SLACK = 1e-2
# What float32 log probabilities cannot tell from nothing, beside a sum of 1.
_HAIR = 2.0**-24
_PROBES = (
    "def area(radius):\n    return 3.14159 * radius**2\n",
    "Naïve café, 東京 2024: 12345 😀",
    "  two  spaces\t\n\n",
)


class EndpointTeacher:
    """Asks a server for the k likeliest words at every target, several examples at a time.

    Args:
        client: To the server's root, below which `v1/completions` is.
        api: "vllm", "echo" or "llama_cpp", see `endpoint_answers`.
        model: The model's name at the server.
        k: How many words.
        vocab_size: The tokenizer's number of ids; words beyond it are among those that are not listed.
        in_flight: How many examples are asked about at once, each with one request at a time.
    """

    def __init__(self, client: OpenAIClient, *, api: str, model: str, k: int, vocab_size: int, in_flight: int):
        self._client, self._api, self._model = client, api, model
        self._k, self._vocab_size, self._in_flight = k, vocab_size, in_flight

    def require_tokenizer(self, tokenizer: Any) -> bool:
        """Makes sure that the server's tokenizer gives the ids that ours gives; returns False where it has no answer.

        Raises:
            EndpointError: no attempt was answered.
            InputError: the ids differ; names a text and both.
        """
        for text in _PROBES:
            body = {"model": self._model, "prompt": text, "add_special_tokens": False}
            if self._api == "llama_cpp":
                body = {"content": text, "add_special": False}
            try:
                answer = self._client.post("tokenize", body)
            except EndpointError:
                raise
            except InputError:  # It has no such path.
                return False
            theirs, ours = answer.get("tokens"), tokenizer.encode(text, add_special_tokens=False)
            if not isinstance(theirs, list):
                return False
            if theirs != ours:
                raise InputError(
                    f"teacher.endpoint must have the tokenizer of teacher.model, but makes {theirs[:8]} of {text!r}, "
                    f"which are {ours[:8]} here; serve that model, or name the served one in teacher.model."
                )
        return True

    def arrays_of(self, example: EncodedExample) -> Arrays:
        """Returns what a top-k record keeps of an example's targets, see `top_k_arrays`.

        Raises:
            EndpointError: no attempt was answered.
            InputError: the server refuses, or answers of something else.
        """
        asked = {"model": self._model, "k": self._k, "vocab_size": self._vocab_size}
        found = APIS[self._api](self._client.post, example, **asked)
        return top_k_arrays(found, example.targets, k=self._k, vocab_size=self._vocab_size)

    def in_order(
        self, examples: Iterable[EncodedExample | None]
    ) -> Iterator[tuple[EncodedExample | None, Arrays | None]]:
        """Yields every example with its arrays, in the order in which they come; an example that is None has none.

        No more than `in_flight` are taken ahead of the one that is yielded, so that a caller who writes each down as it
        comes has every answer but those few when something fails, and goes on from there.

        Raises:
            InputError: as `arrays_of`, when all before it have been yielded.
        """
        waiting: deque[tuple[EncodedExample | None, Future[Arrays] | None]] = deque()
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="endpoint")
        try:
            for example in examples:
                waiting.append((example, None if example is None else pool.submit(self.arrays_of, example)))
                if len(waiting) >= self._in_flight:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _first(waiting: deque) -> tuple[EncodedExample | None, Arrays | None]:
    example, future = waiting.popleft()
    return example, None if future is None else future.result()


def top_k_arrays(found: list[LogProbs], targets: np.ndarray, *, k: int, vocab_size: int) -> Arrays:
    """Returns the arrays of a top-k record from what a server says of each target.

    log p(target) and those of the listed words are the server's; the mass of the others is what they leave of 1, and
    UNC what is left beside the target. The entropy of the non-targets, which k words do not tell, is that of the listed
    words and all others as one: never more than the true one.

    Args:
        found: of every target, log p by token id, the target's among them.
        targets: integers `[tokens]`.
        k: how many words are kept.
        vocab_size: ids are below it.

    Returns:
        float32 target_log_prob, log_uncertainty, rest_entropy and log_rest_mass `[tokens]`, int32 ids and float32
        log_probs `[tokens, k]`, by falling probability.

    Raises:
        InputError: the numbers are no log probabilities, such as logits.
    """
    _require_probabilities(found)
    count = len(found)
    ids, log_probs = np.full((count, k), -1, np.int32), np.full((count, k), -np.inf)
    of_target = np.array([entries[int(target)] for entries, target in zip(found, targets, strict=True)], np.float64)
    for row, entries in enumerate(found):
        words = [word for word in entries if 0 <= word < vocab_size]
        listed = sorted(words, key=lambda word, entries=entries: (-entries[word], word))[:k]
        ids[row, : len(listed)] = listed
        log_probs[row, : len(listed)] = [entries[word] for word in listed]
    of_target, log_probs = np.minimum(of_target, 0.0), np.minimum(log_probs, 0.0)
    is_target = ids == np.asarray(targets)[:, None]
    has_target = is_target.any(axis=1)
    others = np.where(is_target, 0.0, np.exp(log_probs)).sum(axis=1)
    # Where the target has all but rounding, the others' own numbers say more than what it leaves of 1.
    uncertainty = np.maximum(-np.expm1(of_target), np.maximum(others, _HAIR * _HAIR))
    # What is not listed and is not the target either; a sum of 1 within rounding does not mean that there is nothing.
    left = np.maximum(uncertainty - others, _HAIR * uncertainty)
    outside = np.where(has_target, left, left + np.exp(of_target))
    cells = np.concatenate([np.where(is_target, 0.0, np.exp(log_probs)), left[:, None]], axis=1)
    cells = cells / cells.sum(axis=1, keepdims=True)
    entropy = -np.sum(cells * np.log(np.where(cells > 0, cells, 1.0)), axis=1)
    exact = {"target_log_prob": of_target, "log_uncertainty": np.log(uncertainty), "rest_entropy": entropy}
    exact |= {"log_rest_mass": np.log(np.minimum(outside, 1.0)), "log_probs": log_probs}
    return {name: array.astype(np.float32) for name, array in exact.items()} | {"ids": ids}


def _require_probabilities(found: list[LogProbs]) -> None:
    for place, entries in enumerate(found):
        values = np.array([*entries.values()], np.float64)
        total = np.exp(np.minimum(values, 1.0)).sum()
        if not (values <= _SUM_SLACK).all() or not total <= 1 + _SUM_SLACK:
            raise InputError(
                f"teacher.endpoint must give log probabilities at temperature 1, but at target {place} has "
                f"{values.max():.4g} as the largest of {len(values)} whose probabilities add up to {total:.4g}; let "
                "the server give raw log probabilities (vLLM: --logprobs-mode raw_logprobs)."
            )
