"""Prompts of unequal length as one rectangle, in few different sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atkd_jax.errors import InputError

_SMALLEST_BUCKET = 16


def bucket_length(length: int) -> int:
    """Return the next of 16, 24, 32, 48, 64, 96, 128, ... from `length` on.

    Every size of a rectangle is compiled for anew; these are few, and at most half of the prompt is padding.
    """
    bucket = _SMALLEST_BUCKET
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket // 3 * 4
    return bucket


def left_pad(prompts: Sequence[Sequence[int]], *, rows: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the prompts at the right of their rows, and where they stand: int32 [rows, bucket] and bool likewise.

    The rows beyond the prompts hold a single token, `pad_id`.
    """
    bucket = bucket_length(max(map(len, prompts)))
    tokens = np.full((rows, bucket), pad_id, np.int32)
    present = np.zeros((rows, bucket), bool)
    present[:, -1] = True
    for row, prompt in enumerate(prompts):
        tokens[row, bucket - len(prompt) :] = prompt
        present[row, bucket - len(prompt) :] = True
    return tokens, present


def check_prompts(prompts: Sequence[Sequence[int]], *, vocab_size: int) -> None:
    """Raise InputError where there are no prompts, one of them is empty, or one is not of this vocabulary."""
    if not prompts:
        raise InputError("generate: there must be at least one prompt, got an empty list; pass a list of token lists.")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(
                f"generate: every prompt must have at least one token, but prompt {number} (from 0) has none; start "
                "it with the tokenizer's first token, or leave it out."
            )
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise InputError(
                f"generate: token ids must be from 0 to {vocab_size - 1}, but prompt {number} (from 0) has "
                f"{min(prompt)} to {max(prompt)}; use the model's own tokenizer."
            )


def check_positions(prompts: Sequence[Sequence[int]], *, max_new_tokens: int, learned_positions: int | None) -> None:
    """Raise InputError where a prompt and its longest answer have more tokens than a model has learned positions.

    Padding takes none of them.

    Args:
        prompts: lists of token ids.
        max_new_tokens: the longest answer.
        learned_positions: how many there are; None where nothing is limited.
    """
    longest = max(range(len(prompts)), key=lambda number: len(prompts[number]))
    length = len(prompts[longest])
    if learned_positions is not None and length + max_new_tokens > learned_positions:
        raise InputError(
            f"generate: a prompt and its answer must have at most the {learned_positions} tokens that the model has "
            f"learned positions for, but prompt {longest} (from 0) has {length} and max_new_tokens is "
            f"{max_new_tokens}; shorten one of them."
        )
