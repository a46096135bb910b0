"""Requests to an endpoint that speaks OpenAI's HTTP interface: bounded, retried with back-off, answered in JSON.

vLLM, SGLang, llama.cpp, Ollama, TGI and hosted services speak it. What is asked and what an answer means is the
caller's affair.
"""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from atkd_jax.errors import InputError

_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_EXCERPT_CHARACTERS = 300


class EndpointError(InputError):
    """A request got no answer, however often it was sent."""


class OpenAIClient:
    """Sends JSON to one endpoint; any number of threads may.

    A request is sent again after a broken connection, a time-out, a status that passes (408, 409, 425, 429, 5xx) or a
    body that is no JSON object. Between two attempts it waits twice as long as before, times a random factor of 0.5 to
    1, or as long as the endpoint's `Retry-After` says where that is longer, but no longer than `longest_wait_seconds`.

    Args:
        base_url: Up to and with the version, such as `http://localhost:8000/v1`.
        api_key: Sent as a bearer token; stands in no message. None sends none.
        attempts: How often a request is sent at most.
        timeout_seconds: For the connection, and between two pieces of an answer.
        first_wait_seconds: Before the second attempt.
        longest_wait_seconds: Between any two.
        max_in_flight: How many requests of `post_all` are under way at once.
        requests_per_second: How many are sent in a second at most, those that are sent again among them, evenly spaced
            over all threads; None sends them as they come.
        sleep: Waits so many seconds; if None, until that or until the client is closed.

    Raises:
        InputError: `base_url` is no HTTP address, or a number is out of its range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        attempts: int = 6,
        timeout_seconds: float = 120.0,
        first_wait_seconds: float = 1.0,
        longest_wait_seconds: float = 60.0,
        max_in_flight: int = 8,
        requests_per_second: float | None = None,
        sleep: Callable[[float], object] | None = None,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise InputError(
                f"endpoint: its address must start with http:// or https://, but {base_url!r} came; give it up to the "
                "version, such as http://localhost:8000/v1."
            )
        for name, value in (("attempts", attempts), ("max_in_flight", max_in_flight)):
            if value < 1:
                raise InputError(f"endpoint: {name} must be at least 1, but {value} came.")
        if requests_per_second is not None and not requests_per_second > 0:
            raise InputError(f"endpoint: requests_per_second must be above 0, but {requests_per_second} came.")
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._waits = first_wait_seconds, longest_wait_seconds
        self._max_in_flight = max_in_flight
        self._closed = threading.Event()
        self._sleep = self._closed.wait if sleep is None else sleep
        self._spacing_seconds = 1.0 / requests_per_second if requests_per_second else 0.0
        self._next_turn, self._turns = 0.0, threading.Lock()
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_maxsize=max_in_flight)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"

    def close(self) -> None:
        """Closes the connections; what is still under way is not tried again."""
        self._closed.set()
        self._session.close()

    def __enter__(self) -> OpenAIClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the JSON object that the endpoint answers.

        Args:
            path: Below the base, such as `chat/completions`.
            body: What is sent, as JSON.

        Raises:
            EndpointError: No attempt was answered.
            InputError: The endpoint refuses the request for good: a wrong key, model, path or field.
        """
        return self._send("POST", path, body)

    def get(self, path: str) -> dict[str, Any]:
        """Returns what stands at `path`, such as `models`; raises as `post` does."""
        return self._send("GET", path, None)

    def post_all(
        self, path: str, bodies: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any] | EndpointError]]:
        """Gives every body's number, from 0, and its answer, in the order in which answers come.

        Bodies are taken as room becomes free, so that they need not exist all at once. Where no attempt was answered
        the error stands in the answer's place, and the others go on.

        Raises:
            InputError: as `post`, at the first request that is refused for good.
        """
        numbered = enumerate(bodies)
        under_way: dict[Future[dict[str, Any]], int] = {}
        pool = ThreadPoolExecutor(self._max_in_flight, thread_name_prefix="endpoint")
        try:
            while True:
                while len(under_way) < self._max_in_flight and (taken := next(numbered, None)) is not None:
                    number, body = taken
                    under_way[pool.submit(self.post, path, body)] = number
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    number = under_way.pop(future)
                    try:
                        yield number, future.result()
                    except EndpointError as error:
                        yield number, error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        url = f"{self.base_url}/{path.lstrip('/')}"
        failure = ""
        for attempt in range(self._attempts):
            asked_wait = None
            self._await_turn()
            try:
                response = self._session.request(method, url, json=body, timeout=self._timeout_seconds)
            except requests.RequestException as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if response.ok:
                    try:
                        answer = response.json()
                    except requests.JSONDecodeError:
                        answer = None
                    if isinstance(answer, dict):
                        return answer
                    failure = f"the answer is no JSON object: {self._excerpt(response.text)}"
                elif response.status_code in _PASSING:
                    failure = f"status {response.status_code}: {self._excerpt(response.text)}"
                    asked_wait = _retry_after_seconds(response.headers.get("Retry-After"))
                else:
                    raise InputError(self._refusal(response, url))
            if self._closed.is_set():
                break
            if attempt + 1 < self._attempts:
                self._sleep(self._wait_seconds(attempt, asked_wait))
        raise EndpointError(
            f"endpoint: {url} must answer, but none of {self._attempts} attempts was answered; the last: "
            f"{self._excerpt(failure)}. Look whether it runs, or allow more attempts."
        )

    def _await_turn(self) -> None:
        if not self._spacing_seconds:
            return
        with self._turns:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._spacing_seconds
        if turn > now:
            self._sleep(turn - now)

    def _wait_seconds(self, attempt: int, asked: float | None) -> float:
        first, longest = self._waits
        own = first * 2.0**attempt * random.uniform(0.5, 1.0)
        return min(longest, own if asked is None else max(asked, own))

    def _refusal(self, response: requests.Response, url: str) -> str:
        advice = {
            401: "give a valid key",
            403: "give a key that may do this",
            404: "look at the address, which ends with the version such as /v1, and at the model's name",
        }
        hint = advice.get(response.status_code, "look at the model's name and the settings")
        return f"endpoint: {url} refuses with status {response.status_code} ({self._excerpt(response.text)}); {hint}."

    def _excerpt(self, text: str) -> str:
        shown = text.replace(self._api_key, "[the key]") if self._api_key else text
        return " ".join(shown.split())[:_EXCERPT_CHARACTERS]


def api_key_from(variable: str | None) -> str | None:
    """Returns the key that an environment variable holds; None where no variable is named.

    Raises:
        InputError: the variable is named but is not set, or holds a line break.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or len(key.split()) > 1:
        what = "is not set" if not key else "holds white space"
        raise InputError(
            f"endpoint: the environment variable {variable} must hold the API key, but it {what}; export it, or name "
            "no variable for an endpoint that needs none."
        )
    return key


def _retry_after_seconds(header: str | None) -> float | None:
    """Seconds, or an HTTP date, as RFC 9110 section 10.2.3 has it; None where it is neither."""
    if header is None:
        return None
    try:
        return float(header)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return None
