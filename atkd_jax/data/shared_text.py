"""Examples that several tokenizers read whole, so that what their models say of the text compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from atkd_jax.data.encoding import Overlong
from atkd_jax.data.examples import Example, Examples
from atkd_jax.data.templates import Template, TemplateName
from atkd_jax.errors import InputError


class SharedText(NamedTuple):
    """Examples that every tokenizer reads whole.

    Attributes:
        examples: Read by number.
        left_out: How many others there were.
        response_bytes: Of UTF-8, in the responses of all examples together.
    """

    examples: Examples
    left_out: int
    response_bytes: int


class _Chosen:
    """A view."""

    def __init__(self, examples: Examples, numbers: Sequence[int]):
        self._examples, self._numbers = examples, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        return self._examples[self._numbers[index]]


def shared_text(
    examples: Examples,
    tokenizers: Sequence[Any],
    *,
    template: TemplateName,
    sequence_length: int,
    overlong: Overlong,
) -> SharedText:
    """Returns the examples whose every response token is a target for each of the tokenizers.

    Left out are those that do not fit into a row, for `overlong="error"` aside, which refuses them when they are
    encoded; and those in which nothing stands before the response, neither a prompt nor a BOS token, so that its first
    token is predicted by none.

    Args:
        examples: Of a split.
        tokenizers: Of the models.
        template: See `Template`.
        sequence_length: Tokens in a row.
        overlong: See `EncodedExamples`.

    Raises:
        InputError: none is left.
    """
    forms = [Template(template, tokenizer) for tokenizer in tokenizers]

    def is_whole(example: Example) -> bool:
        for form in forms:
            prompt = form.prompt_ids(example.prompt)
            length = len(prompt) + len(form.response_ids(example.response))
            if not prompt or (overlong != "error" and length > sequence_length):
                return False
        return True

    numbers = [number for number in range(len(examples)) if is_whole(examples[number])]
    response_bytes = sum(len(examples[number].response.encode()) for number in numbers)
    if not response_bytes:
        raise InputError(
            f"None of the {len(examples)} examples has a response that every tokenizer reads whole within "
            f"data.sequence_length={sequence_length}, after a prompt or a BOS token; raise the length, or take other "
            "data."
        )
    return SharedText(_Chosen(examples, numbers), len(examples) - len(numbers), response_bytes)
