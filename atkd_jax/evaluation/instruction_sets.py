"""Sets of instructions, answered by each model and compared with the reference answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Literal

from jax.sharding import Mesh
from rich.table import Table

from atkd_jax.data import Instruction, Template
from atkd_jax.data.examples import example_from_record
from atkd_jax.data.templates import TemplateName
from atkd_jax.errors import InputError
from atkd_jax.evaluation.answering import Decoding, answer_prompts
from atkd_jax.evaluation.rouge import best_rouge_l
from atkd_jax.evaluation.text_scores import Answer, score_answers, spread_over_seeds
from atkd_jax.models import Decoder

Wording = Literal["paper", "data"]


@dataclass(frozen=True)
class SetAnswers:
    """The answers of every model to one set.

    Attributes:
        name: The set's.
        instructions: What was asked.
        truncated_prompts: How many prompts lost their beginning, for at least one model.
        answers: model -> decoding's name -> an answer per instruction.
    """

    name: str
    instructions: Sequence[Instruction]
    truncated_prompts: int
    answers: Mapping[str, Mapping[str, Sequence[Answer]]]

    def scores(self) -> dict[str, dict[str, Any]]:
        """Per model: the greedy answers' scores, and the drawn ones' mean and standard deviation over seeds."""
        references = [instruction.references for instruction in self.instructions]
        found: dict[str, dict[str, Any]] = {}
        for model, by_decoding in self.answers.items():
            scores = {name: score_answers(own, references) for name, own in by_decoding.items()}
            drawn = {name: own for name, own in scores.items() if name != "greedy"}
            found[model] = {"greedy": scores["greedy"]} if "greedy" in scores else {}
            if drawn:
                found[model]["sampled"] = spread_over_seeds(list(drawn.values()))
                found[model]["seeds"] = drawn
        return found

    def records(self, model: str, decoding: str) -> list[dict[str, Any]]:
        """A JSON object per answer, with what was asked and what it is compared with."""
        return [
            {
                "instruction": asked.instruction,
                "input": asked.input,
                "references": list(asked.references),
                "answer": answer.text,
                "tokens": answer.tokens,
                "closed": answer.is_closed,
                "rouge_l": best_rouge_l(answer.text, asked.references),
            }
            for asked, answer in zip(self.instructions, self.answers[model][decoding], strict=True)
        ]


def paper_prompt(asked: Instruction) -> str:
    """Returns the prompt that the paper puts an instruction in, which is Alpaca's (Taori et al., 2023).

    Example:
        >>> print(paper_prompt(Instruction("Add.", "1, 2", ("3",))))
        Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.
        <BLANKLINE>
        ### Instruction:
        Add.
        <BLANKLINE>
        ### Input:
        1, 2
        <BLANKLINE>
        ### Response:
        <BLANKLINE>
    """
    context = ", paired with an input that provides further context" if asked.input else ""
    addition = f"### Input:\n{asked.input}\n\n" if asked.input else ""
    return (
        f"Below is an instruction that describes a task{context}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{asked.instruction}\n\n{addition}### Response:\n"
    )


def set_names(sources: Sequence[str]) -> dict[str, str]:
    """Returns each source by a short name: a file's stem, or a data set's name with `_` for what a file may not have.

    Raises:
        InputError: Two have one name.
    """
    names: dict[str, str] = {}
    for source in sources:
        is_file = source.endswith((".jsonl", ".json"))
        name = PurePath(source).stem if is_file else source.replace("/", "_").replace(":", "_")
        if name in names:
            raise InputError(
                f"evaluation.instructions.sets must have different names, but {names[name]} and {source} are both "
                f"{name!r}; rename a file, or leave one out."
            )
        names[name] = source
    return names


def answer_set(
    name: str,
    instructions: Sequence[Instruction],
    models: Mapping[str, Decoder],
    tokenizers: Mapping[str, Any],
    *,
    wording: Wording,
    template: TemplateName,
    decodings: Sequence[Decoding],
    max_new_tokens: int,
    max_prompt_tokens: int,
    batch_size: int,
    mesh: Mesh | None = None,
    on_answers: Callable[[int], None] = lambda count: None,
) -> SetAnswers:
    """Lets every model answer every instruction, once for each decoding.

    Args:
        name: The set's.
        instructions: What is asked.
        models: By name, their parameters where they shall lie.
        tokenizers: Each model's own, by its name.
        wording: `paper`: `paper_prompt`, as it stands, after what the tokenizer puts before a text. `data`: as a
            training example would have it, in `template`.
        template: See `Template`.
        decodings: How tokens are chosen, each in turn.
        max_new_tokens: The longest answer.
        max_prompt_tokens: Of a longer prompt the last so many are kept.
        batch_size: How many prompts at once.
        mesh: Rows are split over its devices.
        on_answers: Is told how many more have been answered.
    """
    texts = [_worded(asked, wording) for asked in instructions]
    truncated: set[int] = set()

    def answers(model: Decoder, tokenizer: Any) -> dict[str, list[Answer]]:
        form = Template("plain" if wording == "paper" else template, tokenizer)
        prompts = [form.prompt_ids(text) for text in texts]
        truncated.update(number for number, prompt in enumerate(prompts) if len(prompt) > max_prompt_tokens)
        written = partial(
            answer_prompts,
            model,
            [prompt[-max_prompt_tokens:] for prompt in prompts],
            tokenizer,
            form=form,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            mesh=mesh,
            on_answers=on_answers,
        )
        return {decoding.name: written(decoding=decoding) for decoding in decodings}

    found = {own: answers(model, tokenizers[own]) for own, model in models.items()}
    return SetAnswers(name, instructions, len(truncated), found)


def render_set(name: str, count: int, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of one set, with a column per model."""
    table = Table(title=f"{name}, {count:,} instructions", title_justify="left")
    table.add_column("")
    for model in scores:
        table.add_column(model, justify="right")
    rows = {"ROUGE-L": "rouge_l", "distinct-2": "distinct_2", "distinct-4": "distinct_4", "tokens": "mean_tokens"}
    for kind in ("greedy", "sampled"):
        for title, key in rows.items():
            cells = [_cell(own[kind][key]) for own in scores.values() if kind in own]
            if cells:
                table.add_row(f"{title}, {kind}", *cells)
    return table


def _cell(value: float | Mapping[str, float | None]) -> str:
    if not isinstance(value, Mapping):
        return f"{value:.2f}"
    return f"{value['mean']:.2f}" + (f" ± {value['std']:.2f}" if value["std"] is not None else "")


def _worded(asked: Instruction, wording: Wording) -> str:
    if wording == "paper":
        return paper_prompt(asked)
    record = {"instruction": asked.instruction, "input": asked.input, "output": ""}
    return example_from_record(record, where="an instruction").prompt
