"""From examples to tokens with a mask of targets, and what happens to those that are too long."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from atkd_jax.data.examples import Examples
from atkd_jax.data.pairing import TeacherTokens, pair_tokens
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
        teacher: the example in the teacher's tokens, where it has a tokenizer of its own.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    truncated: bool
    number: int = -1
    teacher: TeacherTokens | None = None

    @property
    def length(self) -> int:
        """The places that it takes in a row: of the longer one, where student and teacher have rows of their own."""
        return max(len(self.tokens), 0 if self.teacher is None else len(self.teacher.tokens))

    @property
    def targets(self) -> np.ndarray:
        """The tokens that are to be predicted, int32 [targets]."""
        return self.tokens[self.loss_mask]

    @property
    def checksum(self) -> int:
        """A checksum of the tokens and the mask."""
        own = zlib.crc32(self.loss_mask.tobytes(), zlib.crc32(self.tokens.tobytes()))
        return own if self.teacher is None else zlib.crc32(self.teacher.tokens.tobytes(), own)


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
        teacher_template: how text becomes the teacher's ids, where it has a tokenizer of its own; then an example is as
            long as the longer of the two, and one without a pair of targets is left out too.

    Raises:
        InputError: an example is too long and must not be, or every example would be dropped.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        template: Template,
        sequence_length: int,
        overlong: Overlong,
        teacher_template: Template | None = None,
    ):
        if overlong not in ("truncate", "drop", "error"):
            raise InputError(f"data.overlong must be 'truncate', 'drop' or 'error', but is {overlong!r}.")
        self._examples = examples
        self._template = template
        self._sequence_length = sequence_length
        self._overlong = overlong
        self._teacher_template = teacher_template
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
            self._cached_bytes += 500 + (0 if encoded is None else 9 * encoded.length)
        return encoded

    def _encode(self, index: int) -> EncodedExample | None:
        forms = [self._template, *([] if self._teacher_template is None else [self._teacher_template])]
        example = self._examples[index]
        ids = [
            (form.prompt_ids(example.prompt), form.response_ids(example.response, ended=example.ended))
            for form in forms
        ]
        prompt, response = max(ids, key=lambda pair: len(pair[0]) + len(pair[1]))
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
        prompt, response = ids[0]
        tokens = np.asarray([*prompt, *response][: self._sequence_length], np.int32)
        loss_mask = np.arange(len(tokens)) >= max(len(prompt), 1)
        teacher, has_use = None, loss_mask.any()
        if self._teacher_template is not None:
            teacher = pair_tokens(
                *ids[1], prompt_tokens=len(prompt), loss_mask=loss_mask, sequence_length=self._sequence_length
            )
            has_use = teacher.places.any()
        return EncodedExample(tokens, loss_mask, is_overlong, index, teacher) if has_use else None

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
