"""Runs the measurements and writes their results as JSON and as a table."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from atkd_jax.environment import describe_environment
from benchmarks.losses import REFERENCE, measure_losses


@dataclasses.dataclass(frozen=True)
class Options:
    """Value and gradient, per loss."""

    tokens: int = 1024
    """Counted tokens."""
    vocab: int = 49152
    """Columns of the logits."""
    width: int = 576
    """Of the hidden states of the linear form."""
    repeats: int = 5
    """How many pairs are measured."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("runs/benchmarks/losses.json")
    """Where the JSON goes."""


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    settings = {"tokens": options.tokens, "vocab": options.vocab, "width": options.width, "repeats": options.repeats}
    rows = measure_losses(**settings)
    title = f"{options.tokens:,} tokens x {options.vocab:,}; ratios to a {REFERENCE}"
    table = Table("loss", "seconds", "ratio", "temporary GiB", title=title)
    for name, row in rows.items():
        memory = "" if row.temporary_gib is None else f"{row.temporary_gib:.3f}"
        table.add_row(name, f"{row.seconds:.3f}", f"{row.ratio:.2f}", memory)
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"environment": describe_environment(devices=[str(device) for device in jax.devices()])}
    measured = {name: dataclasses.asdict(row) for name, row in rows.items()}
    options.out.write_text(json.dumps(facts | settings | {"losses": measured}, indent=2) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
