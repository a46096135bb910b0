"""What each model answers, for a person to read beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from atkd_jax.data import Example
from atkd_jax.data.templates import TemplateName
from atkd_jax.generation import answer
from atkd_jax.models import Decoder


@dataclass(frozen=True)
class Sample:
    """One prompt, the data's own response and each model's answer, as text."""

    prompt: str
    response: str
    answers: Mapping[str, str]


def sample_answers(
    models: Mapping[str, Decoder],
    examples: Sequence[Example],
    tokenizers: Mapping[str, Any],
    *,
    template: TemplateName,
    max_new_tokens: int,
    mesh: Mesh | None = None,
) -> list[Sample]:
    """Each model's likeliest continuation, token by token, of every example's prompt.

    Args:
        models: By name.
        examples: Whose prompts are answered.
        tokenizers: Each model's own, by its name.
        template: How a prompt becomes tokens, and which tokens end an answer.
        max_new_tokens: The longest answer.
        mesh: Rows are split over its devices.

    Returns:
        A sample per example, in order. The answers hold no special tokens.
    """
    prompts = [example.prompt for example in examples]
    answers = {
        name: answer(model, prompts, tokenizers[name], template=template, max_new_tokens=max_new_tokens, mesh=mesh)
        for name, model in models.items()
    }
    return [
        Sample(example.prompt, example.response, {name: texts[number] for name, texts in answers.items()})
        for number, example in enumerate(examples)
    ]
