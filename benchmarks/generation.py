"""Tokens a second of greedy text: ours beside PyTorch's `generate` of transformers, on the same machine and weights.

    python -m benchmarks.generation [--model NAME] [--rows 1 16] [--new_tokens 64]

The two take turns, and the ratio is the median over these pairs: other work on the machine slows both of a pair. What
is compiled is compiled before.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from atkd_jax.environment import describe_environment
from atkd_jax.generation import generate
from atkd_jax.interop import fetch_model, load_model
from benchmarks.measuring import seconds_of


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the measurement."""

    model: str = "smollm2-135m-instruct"
    """A name that `launch.py fetch` knows, a directory, or a hub id."""
    cache_dir: Path = Path("~/.cache/atkd_jax")
    """Where models are."""
    rows: tuple[int, ...] = (1, 16)
    """How many prompts at once."""
    prompt_tokens: int = 32
    """Tokens of each prompt."""
    new_tokens: int = 64
    """Tokens that each row writes."""
    pairs: int = 3
    """How many pairs are measured."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("runs/benchmarks/generation.json")
    """Where the JSON goes."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Of one number of rows.

    Attributes:
        tokens_per_second: Of the fastest run.
        torch_tokens_per_second: Likewise.
        ratio: How many times as fast as PyTorch; the median over the pairs.
        same_text: The share of rows whose texts agree to the last token.
    """

    tokens_per_second: float
    torch_tokens_per_second: float
    ratio: float
    same_text: float


def measure_generation(
    directory: Path, *, rows: Sequence[int], prompt_tokens: int, new_tokens: int, pairs: int
) -> dict[int, Measurement]:
    """Gives the speed of both by number of rows.

    Args:
        directory: The model, in the Hugging Face layout.
        rows: How many prompts at once.
        prompt_tokens: Random tokens of each prompt.
        new_tokens: Tokens that each row writes; none ends earlier.
        pairs: How many pairs are measured.
    """
    graphdef, params = nnx.split(load_model(directory, dtype=jnp.float32, param_dtype=jnp.float32))
    oracle = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    vocab_size = oracle.config.vocab_size
    found = {}
    for count in rows:
        prompts = np.random.default_rng(0).integers(0, vocab_size, (count, prompt_tokens)).tolist()

        def ours(prompts: Any = prompts) -> list[list[int]]:
            return generate(graphdef, params, prompts, max_new_tokens=new_tokens, eos_ids=(), pad_id=0)

        def theirs(prompts: Any = prompts) -> list[list[int]]:
            tokens = torch.tensor(prompts)
            settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            written = oracle.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
            return written[:, prompt_tokens:].tolist()

        texts = zip(ours(), theirs(), strict=True)
        same = statistics.fmean(mine == other for mine, other in texts)
        times = [(seconds_of(theirs), seconds_of(ours)) for _ in range(pairs)]
        tokens = count * new_tokens
        found[count] = Measurement(
            tokens_per_second=tokens / min(mine for _, mine in times),
            torch_tokens_per_second=tokens / min(other for other, _ in times),
            ratio=statistics.median(other / mine for other, mine in times),
            same_text=same,
        )
    return found


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks.generation", use_underscores=True)
    directory = fetch_model(options.model, cache_dir=options.cache_dir.expanduser())
    settings = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens, "pairs": options.pairs}
    found = measure_generation(directory, rows=options.rows, **settings)
    table = Table("rows", "tokens/s", "PyTorch tokens/s", "ratio", "same text", title=f"{options.model}, greedy")
    for count, row in found.items():
        speeds = f"{row.tokens_per_second:.0f}", f"{row.torch_tokens_per_second:.0f}"
        table.add_row(str(count), *speeds, f"{row.ratio:.2f}", f"{row.same_text:.0%}")
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"environment": describe_environment(devices=[str(device) for device in jax.devices()])}
    measured = {count: dataclasses.asdict(row) for count, row in found.items()}
    options.out.write_text(json.dumps(facts | settings | {"model": options.model, "rows": measured}, indent=2) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
