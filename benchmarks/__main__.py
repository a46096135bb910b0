"""Measures the losses and writes the results as JSON and as a Markdown table."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import jax
import tyro

from atkd_jax.environment import describe_environment
from benchmarks.losses import measure_losses
from benchmarks.measuring import Measurement


@dataclasses.dataclass(frozen=True)
class Options:
    """What value and gradient of each loss cost."""

    vocab: tuple[int, ...] = (32000, 49152, 128256, 151936)
    """Columns of the logits, a table for each."""
    tokens: int = 1024
    """Counted tokens."""
    width: int = 1024
    """Of the hidden states of the linear forms."""
    repeats: int = 5
    """How many pairs are measured."""
    devices: int = 2
    """Over how many CPU devices the sharded form runs; 1 leaves it out."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/benchmarks/losses")
    """Where VOCAB.json and VOCAB.md go."""


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("vocab", "out")}
    facts = {"environment": describe_environment(devices=[str(device) for device in jax.devices()])}
    for vocab in options.vocab:
        title = f"{options.tokens:,} tokens, {vocab:,} words, width {options.width:,}"
        print(f"{title} ...", flush=True)
        rows = {}
        for name, row in measure_losses(**settings, vocab=vocab):
            print(f"  {name}: {row.seconds:.3f} s, {row.ratio:.2f} x {row.reference}", flush=True)
            rows[name] = row
        measured = {name: dataclasses.asdict(row) for name, row in rows.items()}
        file = options.out / f"{vocab}.json"
        file.write_text(json.dumps(facts | settings | {"vocab": vocab, "losses": measured}, indent=2) + "\n")
        table = markdown(title, rows)
        file.with_suffix(".md").write_text(table)
        print(table)


def markdown(title: str, rows: dict[str, Measurement]) -> str:
    """Returns the rows as a table."""
    lines = [
        f"| {title} | seconds | ratio | to | temporary GiB | process GiB |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for name, row in rows.items():
        memory = (("" if figure is None else f"{figure:.3f}") for figure in (row.temporary_gib, row.process_gib))
        lines.append(f"| {name} | {row.seconds:.3f} | {row.ratio:.2f} | {row.reference} | {' | '.join(memory)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
