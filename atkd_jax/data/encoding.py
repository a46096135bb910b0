"""From examples to tokens with a mask of targets, and what happens to those that are too long."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from atkd_jax.data.examples import Examples
from atkd_jax.data.templates import Template
from atkd_jax.errors import InputError

Overlong = Literal["truncate", "drop", "error"]
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """The tokens of one example.

    Attributes:
        tokens: int32 [length], prompt, response and closing token.
        loss_mask: bool [length], true where the token is a target: in the response and at its closing token. Never at
            the first token of all, which no earlier token of the example could predict.
        truncated: whether the end was cut off.
        number: of the example in the data; -1 where it is in none.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    truncated: bool
    number: int = -1

    @property
    def targets(self) -> np.ndarray:
        """The tokens that are to be predicted, int32 [targets]."""
        return self.tokens[self.loss_mask]

    @property
    def checksum(self) -> int:
        """A checksum of the tokens and the mask."""
        return zlib.crc32(self.loss_mask.tobytes(), zlib.crc32(self.tokens.tobytes()))


class EncodedExamples:
    """Random access to the examples as tokens; None stands for an example that is dropped.

    An example longer than a row is handled by `overlong`: `truncate` cuts its end off, `drop` leaves it out, `error`
    refuses it. Left out in every case but `error` is an example in which no token could be a target: one whose prompt
    alone fills the row.

    Opening makes sure that the examples are of use: with `overlong="error"` every one is encoded, so that a long run
    does not end at its last example; else up to the first that is not dropped. What was encoded is kept, up to
    `CACHE_BYTES` in all, so that a second epoch need not read and encode it again.

    Args:
        examples: by number.
        template: how text becomes ids.
        sequence_length: tokens in a row.
        overlong: see above.

    Raises:
        InputError: an example is too long and must not be, or every example would be dropped.
    """

    def __init__(self, examples: Examples, *, template: Template, sequence_length: int, overlong: Overlong):
        if overlong not in ("truncate", "drop", "error"):
            raise InputError(f"data.overlong must be 'truncate', 'drop' or 'error', but is {overlong!r}.")
        self._examples = examples
        self._template = template
        self._sequence_length = sequence_length
        self._overlong = overlong
        self._cache: dict[int, EncodedExample | None] = {}
        self._cached_bytes = 0
        self._require_use()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> EncodedExample | None:
        if index in self._cache:
            return self._cache[index]
        encoded = self._encode(index)
        if self._cached_bytes < CACHE_BYTES:
            self._cache[index] = encoded
            self._cached_bytes += 500 if encoded is None else 500 + encoded.tokens.nbytes + encoded.loss_mask.nbytes
        return encoded

    def _encode(self, index: int) -> EncodedExample | None:
        example = self._examples[index]
        prompt = self._template.prompt_ids(example.prompt)
        response = self._template.response_ids(example.response)
        length = len(prompt) + len(response)
        is_overlong = length > self._sequence_length
        if is_overlong and self._overlong == "error":
            raise InputError(
                f"Example {index} has {length} tokens ({len(prompt)} prompt, {len(response)} response), but a row "
                f"holds data.sequence_length={self._sequence_length}: raise it, or set data.overlong to 'truncate' or "
                "'drop'."
            )
        if is_overlong and self._overlong == "drop":
            return None
        tokens = np.asarray([*prompt, *response][: self._sequence_length], np.int32)
        loss_mask = np.arange(len(tokens)) >= max(len(prompt), 1)
        return EncodedExample(tokens, loss_mask, is_overlong, index) if loss_mask.any() else None

    def _require_use(self) -> None:
        usable = False
        for index in range(len(self)):
            usable = self[index] is not None or usable
            if usable and self._overlong != "error":
                return
        if not usable:
            raise InputError(
                f"None of the {len(self)} examples has a token to learn from within data.sequence_length="
                f"{self._sequence_length}: the prompts alone are longer, or data.overlong='drop' leaves all of them "
                "out; raise the length."
            )
