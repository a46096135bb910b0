"""Prompts and answers as text, for whoever wants no ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from atkd_jax.data import Answer, Template
from atkd_jax.data.templates import TemplateName
from atkd_jax.generation.generate import generate
from atkd_jax.generation.stop_strings import cut_at, stop_at
from atkd_jax.models import Decoder


def answer(model: Decoder, prompts: Sequence[str], tokenizer: Any, **options: Any) -> list[str]:
    """The texts of `written_answers`, of which it takes the arguments."""
    return [each.text for each in written_answers(model, prompts, tokenizer, **options)]


def written_answers(
    model: Decoder,
    prompts: Sequence[str],
    tokenizer: Any,
    *,
    template: TemplateName,
    max_new_tokens: int,
    stop_strings: Sequence[str] = (),
    **sampling: Any,
) -> list[Answer]:
    """A model's answers as text without special tokens; the likeliest token each time unless `sampling` says more.

    Args:
        model: Who answers.
        prompts: What is asked.
        tokenizer: The model's own.
        template: How a prompt becomes tokens, and which tokens end an answer.
        max_new_tokens: The longest answer.
        stop_strings: An answer ends before the first of these that it would hold.
        **sampling: `temperature`, `top_k`, `top_p`, `key`, `numbers`, `batch_size`, `mesh` and `unstack`
            of `atkd_jax.generation.generate`.

    Raises:
        InputError: A stop string is empty.
    """
    if not prompts:
        return []
    form = Template(template, tokenizer)

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    answers = generate(
        *nnx.split(model),
        [form.prompt_ids(prompt) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        eos_ids=form.stop_ids,
        pad_id=form.padding_id,
        end_of=stop_at(stop_strings, decode) if stop_strings else None,
        **({"temperature": 0.0, "key": jax.random.key(0)} | sampling),
    )
    return [_answer(ids, decode(ids), stop_strings, form.stop_ids, max_new_tokens) for ids in answers]


def _answer(
    ids: Sequence[int], text: str, stop_strings: Sequence[str], stop_ids: Sequence[int], max_new_tokens: int
) -> Answer:
    cut = cut_at(text, stop_strings)
    return Answer(cut.strip(), len(ids) < max_new_tokens or ids[-1] in stop_ids or cut != text)
