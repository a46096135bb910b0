"""Many prompts answered in rectangles of like lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.data import Template
from atkd_jax.evaluation.text_scores import Answer
from atkd_jax.generation import generate
from atkd_jax.models import Decoder


class Decoding(NamedTuple):
    """How tokens are chosen.

    Attributes:
        name: `greedy`, or `seed_10` and so on.
        temperature: 0 takes the likeliest token.
        top_k: draw among so many of the likeliest tokens; None for all.
        top_p: draw among the fewest tokens of so much probability together.
        seed: of the keys that tokens are drawn with.
    """

    name: str
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0


def decodings(
    *, greedy: bool, seeds: Sequence[int], temperature: float, top_k: int | None, top_p: float
) -> list[Decoding]:
    """Returns the greedy decoding, if wanted, and one per seed."""
    drawn = [Decoding(f"seed_{seed}", temperature, top_k, top_p, seed) for seed in seeds]
    return [Decoding("greedy")] * greedy + drawn


def answer_prompts(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
    *,
    form: Template,
    decoding: Decoding,
    max_new_tokens: int,
    batch_size: int,
    mesh: Mesh | None,
    on_answers: Callable[[int], None] = lambda count: None,
) -> list[Answer]:
    """Returns an answer to each prompt, in order.

    Prompts are worked through from the shortest to the longest, so that a batch holds little padding and few sizes are
    compiled. An answer depends on its prompt, its number and the seed, and on its neighbours in no way.

    Args:
        model: Who answers; its parameters lie where they shall.
        prompts: Token ids.
        tokenizer: The model's own.
        form: Which tokens end an answer.
        decoding: How tokens are chosen.
        max_new_tokens: The longest answer.
        batch_size: How many prompts at once.
        mesh: Rows are split over its devices.
        on_answers: Is told how many more have been answered, after each batch.
    """
    graphdef, params = nnx.split(model)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        written = generate(
            graphdef,
            params,
            [prompts[number] for number in numbers],
            max_new_tokens=max_new_tokens,
            eos_ids=form.stop_ids,
            pad_id=form.padding_id,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            key=jax.random.key(decoding.seed),
            numbers=numbers,
            batch_size=min(batch_size, len(prompts)),
            mesh=mesh,
        )
        for number, ids in zip(numbers, written, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            answers[number] = Answer(text, len(ids), bool(ids) and ids[-1] in form.stop_ids)
        on_answers(len(numbers))
    return [answers[number] for number in range(len(prompts))]
