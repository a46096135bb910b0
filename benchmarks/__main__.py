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
from benchmarks.losses import measure_losses


@dataclasses.dataclass(frozen=True)
class Options:
    """Value and gradient by the student's logits, per loss."""

    tokens: int = 1024
    """Counted tokens."""
    vocab: int = 49152
    """Columns of the logits."""
    repeats: int = 5
    """The median of so many is taken."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("runs/benchmarks/losses.json")
    """Where the JSON goes."""


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    rows = measure_losses(tokens=options.tokens, vocab=options.vocab, repeats=options.repeats)
    table = Table("loss", "seconds", "of forward KL", title=f"{options.tokens:,} tokens x {options.vocab:,}")
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / rows['forward_kl']:.2f}")
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"environment": describe_environment(devices=[str(device) for device in jax.devices()])}
    settings = {"tokens": options.tokens, "vocab": options.vocab, "repeats": options.repeats}
    options.out.write_text(json.dumps(facts | settings | {"seconds": rows}, indent=2) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
