"""The part of `launch.py evaluate` that lets models answer sets of instructions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.run_directory import write_text
from atkd_jax.config import Config
from atkd_jax.data import Instruction, open_instructions
from atkd_jax.evaluation.answering import decodings
from atkd_jax.evaluation.instruction_sets import SetAnswers, answer_set, render_set, set_names
from atkd_jax.models import Decoder

ANSWERS = "answers"


def open_sets(config: Config, *, report: Callable[[str], None]) -> dict[str, list[Instruction]]:
    """Returns the instructions of every set of the config, by its short name."""
    own = config.evaluation.instructions
    return {
        name: open_instructions(
            source, split=own.split, cache_dir=config.cache_dir, limit=own.max_examples, report=report
        )
        for name, source in set_names(own.sets).items()
    }


def answer_sets(
    config: Config,
    sets: Mapping[str, list[Instruction]],
    models: Mapping[str, Decoder],
    tokenizers: Mapping[str, Any],
    *,
    mesh: Mesh | None,
    console: Console,
) -> dict[str, Any]:
    """Lets every model answer every set, prints a table of each, and keeps the answers as JSONL in the run directory.

    Each model reads with its own of the tokenizers.

    Returns:
        What evaluation.json holds of the sets.
    """
    own = config.evaluation.instructions
    ways = decodings(greedy=own.greedy, seeds=own.seeds, temperature=own.temperature, top_k=own.top_k, top_p=own.top_p)
    total = sum(map(len, sets.values())) * len(models) * len(ways)
    found: dict[str, Any] = {}
    done = 0
    with progress_line(console, "answered", total=total) as on_progress:

        def on_answers(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done)

        for name, instructions in sets.items():
            answered = answer_set(
                name,
                instructions,
                models,
                tokenizers,
                wording=own.prompt,
                template=config.data.template,
                decodings=ways,
                max_new_tokens=own.max_new_tokens,
                max_prompt_tokens=own.max_prompt_tokens,
                batch_size=own.batch_size,
                mesh=mesh,
                on_answers=on_answers,
            )
            found[name] = {
                "instructions": len(instructions),
                "truncated_prompts": answered.truncated_prompts,
                "models": answered.scores(),
            }
            if jax.process_index() == 0:
                _write_answers(config.run_dir / ANSWERS / name, answered)
    for name, own_set in found.items():
        console.print(render_set(name, own_set["instructions"], own_set["models"]))
    return found


def _write_answers(folder: Path, answered: SetAnswers) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for model, by_decoding in answered.answers.items():
        for decoding in by_decoding:
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in answered.records(model, decoding)]
            write_text(folder / f"{model.replace(' ', '_')}.{decoding}.jsonl", "".join(lines))
