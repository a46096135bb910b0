"""A JSONL file of answers that is written batch by batch, and goes on where a stop left it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atkd_jax.data.jsonl import text_lines
from atkd_jax.errors import InputError


class Answer(NamedTuple):
    """What a model wrote after a prompt, and whether it ended of itself or had no room for more."""

    text: str
    ended: bool = True


def write_answers(
    out: Path,
    prompts: Sequence[str],
    *,
    answer: Callable[[Sequence[str], range], Sequence[Answer]],
    settings: Mapping[str, Any],
    batch_size: int,
    on_progress: Callable[[int], None],
) -> None:
    """Writes a line with `prompt` and `response` for each prompt, in order, and with `ended` false where it did not.

    What is not finished stands in `OUT.partial`, whose first line are the settings. `OUT` appears when it is whole.

    Args:
        out: Where to.
        prompts: What is answered.
        answer: Prompts and their numbers -> their answers. Called again after a stop, it must give the same.
        settings: Everything that the answers depend on, as JSON has it.
        batch_size: How many prompts at once.
        on_progress: Is told how many prompts have been answered.

    Raises:
        InputError: `out` is there already, or what there is of it was written with other settings.
    """
    if out.exists():
        raise InputError(f"generate: --out must be a new file, but {out} is there already; remove it, or name another.")
    partial = out.with_name(f"{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    header = {"settings": {**settings, "prompts": len(prompts)}}
    done = _finished_answers(partial, header, prompts)
    on_progress(done)
    with partial.open("a", encoding="utf-8") as file:
        for start in range(done, len(prompts), batch_size):
            numbers = range(start, min(start + batch_size, len(prompts)))
            group = prompts[numbers.start : numbers.stop]
            pairs = zip(group, answer(group, numbers), strict=True)
            file.write("".join(_answer_line(prompt, given) for prompt, given in pairs))
            file.flush()
            on_progress(numbers.stop)
    whole = out.with_name(f"{out.name}.whole")
    _, _, answers = partial.read_text(encoding="utf-8").partition("\n")
    whole.write_text(answers, encoding="utf-8")
    whole.replace(out)
    partial.unlink()


def _finished_answers(partial: Path, header: Mapping[str, Any], prompts: Sequence[str]) -> int:
    """Returns how many answers stand in the file, which then ends with the last whole one."""
    text = partial.read_text(encoding="utf-8") if partial.exists() else ""
    lines = [line for line in text_lines(text) if line.endswith("\n")]
    if not lines:
        partial.write_text(_line(header), encoding="utf-8")
        return 0
    records = [json.loads(line) for line in lines]
    answered = [record.get("prompt") for record in records[1:]]
    if records[0] != json.loads(_line(header)) or answered != list(prompts[: len(answered)]):
        raise InputError(
            f"{partial} was begun with other settings or prompts ({json.dumps(records[0].get('settings'))}); "
            "give them again, or remove the file."
        )
    partial.write_text("".join(lines), encoding="utf-8")
    return len(answered)


def _answer_line(prompt: str, answer: Answer) -> str:
    return _line({"prompt": prompt, "response": answer.text} | ({} if answer.ended else {"ended": False}))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
