"""Tokens a second of training from a cache beside training with the live teacher, and what the cache takes on disk.

    python -m benchmarks.cache [--kinds top_k rest_sample hidden] [--pairs 6]

The two take turns, a step each, over the same batches: the ratio is the median over these pairs, since other work on
the machine slows both of a pair. A step's time has the reading of its batch in it. What is compiled is compiled before.
"""

import dataclasses
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from atkd_jax.commands.cache import make_cache
from atkd_jax.config import Config
from atkd_jax.environment import describe_environment
from atkd_jax.models import split_trained
from atkd_jax.sharding import make_meshes, shard_batch
from atkd_jax.training.compiled_step import jitted_train_step
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.run_batches import open_batches
from atkd_jax.training.start import prepare_start
from atkd_jax.training.teaching import open_teaching

Kind = Literal["top_k", "rest_sample", "hidden"]
Step = Callable[[], tuple[int, float]]
_READ_BATCHES = 100


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the measurement."""

    model: str = "smollm2-135m-instruct"
    """The teacher: a name that `launch.py fetch` knows, a directory, or a hub id."""
    cache_dir: Path = Path("~/.cache/atkd_jax")
    """Where models and data sets are."""
    layers: int = 8
    """The student's, of SmolLM2's 30."""
    length: int = 512
    """Tokens in a row; a batch is one row."""
    split: str = "train[:16]"
    """The examples that are cached and trained on."""
    kinds: tuple[Kind, ...] = ("top_k", "hidden")
    """What is cached."""
    k: int = 64
    """Of top_k."""
    pairs: int = 6
    """How many pairs are measured."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/benchmarks/cache")
    """Where the caches and cache.json go."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Of one kind of cache.

    Attributes:
        tokens_per_second: From the cache; the median.
        live_tokens_per_second: Likewise, with the live teacher.
        ratio: How many times as fast; the median over the pairs.
        bytes_per_token: Of the cache, for each counted token.
        read_seconds: In which a batch is made, what the cache says included, alone; the mean.
        writing_tokens_per_second: Counted tokens, while the cache was written, compilation included.
    """

    tokens_per_second: float
    live_tokens_per_second: float
    ratio: float
    bytes_per_token: float
    read_seconds: float
    writing_tokens_per_second: float


def measure_kind(config: Config, directory: Path, live: Step, *, pairs: int) -> Measurement:
    """Writes a cache and trains from it in turn with the live teacher.

    Args:
        config: A run with the live teacher; `cache` says what is kept.
        directory: Where the cache goes; it must be new.
        live: Takes a step of that run.
        pairs: How many steps of each are counted, after one that is not.
    """
    from_cache = config.model_copy(update={"teacher": config.teacher.model_copy(update={"cache": directory})})
    began = time.monotonic()
    manifest = make_cache(from_cache, directory, console=Console(file=io.StringIO()))
    writing_seconds = time.monotonic() - began
    cached = step_of(from_cache)
    live(), cached()
    turns = [(live(), cached()) for _ in range(pairs)]
    return Measurement(
        tokens_per_second=statistics.median(tokens / seconds for _, (tokens, seconds) in turns),
        live_tokens_per_second=statistics.median(tokens / seconds for (tokens, seconds), _ in turns),
        ratio=statistics.median(slow[1] / fast[1] for slow, fast in turns),
        bytes_per_token=manifest.bytes / manifest.tokens,
        read_seconds=_read_seconds(from_cache),
        writing_tokens_per_second=manifest.tokens / writing_seconds,
    )


def step_of(config: Config) -> Step:
    """Returns what takes a step of a config's run and tells its tokens and seconds."""
    meshes = make_meshes(devices=jax.devices()[:1])
    teaching = open_teaching(config, meshes=meshes, report=lambda _: None)
    tokenizer, (teacher, teacher_params) = teaching.loaded.tokenizer, teaching.split(config)
    batches = open_batches(config, tokenizer, meshes.student, cached=teaching.cached)
    start = prepare_start(config, teaching.loaded, meshes=meshes, open_batches=lambda: batches, report=lambda _: None)
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    student, params, _ = split_trained(start.student)
    state: Any = place_state(params, mesh=meshes.student, optimizer=optimizer, seed=0)
    step = jitted_train_step(
        config,
        meshes=meshes,
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        vocab_size=len(tokenizer),
        state=jax.tree.map(lambda array: array.sharding, state),
        teacher_params=jax.tree.map(lambda array: array.sharding, teacher_params),
    )

    def take() -> tuple[int, float]:
        nonlocal state
        began = time.perf_counter()
        batch = next(batches)
        state, metrics = step(state, teacher_params, shard_batch(meshes.student, batch))
        jax.block_until_ready(metrics)
        return int(np.sum(batch["segment_ids"] > 0)), time.perf_counter() - began

    return take


def _read_seconds(config: Config) -> float:
    meshes = make_meshes(devices=jax.devices()[:1])
    teaching = open_teaching(config, meshes=meshes, report=lambda _: None)
    batches = open_batches(config, teaching.loaded.tokenizer, meshes.student, cached=teaching.cached)
    began = time.perf_counter()
    # Far more than are made ahead.
    for _ in range(_READ_BATCHES):
        next(batches)
    return (time.perf_counter() - began) / _READ_BATCHES


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks.cache", use_underscores=True)
    tree = {
        "cache_dir": options.cache_dir,
        "teacher": {"model": options.model},
        "student": {"layers": options.layers},
        "data": {"train_split": options.split, "sequence_length": options.length},
        "training": {"batch_size": 1},
    }
    found = {}
    live = step_of(Config.model_validate(tree))
    for kind in options.kinds:
        cache = {"kind": kind, "k": options.k} if kind == "top_k" else {"kind": kind}
        directory = options.out / f"{kind}-{time.time_ns()}"
        found[kind] = measure_kind(Config.model_validate(tree | {"cache": cache}), directory, live, pairs=options.pairs)
        print(kind, found[kind], flush=True)
    table = Table("kind", "tokens/s", "live tokens/s", "ratio", "bytes a token", "reading, s", title=options.model)
    for kind, row in found.items():
        speeds = f"{row.tokens_per_second:.0f}", f"{row.live_tokens_per_second:.0f}", f"{row.ratio:.2f}"
        table.add_row(kind, *speeds, f"{row.bytes_per_token:.0f}", f"{row.read_seconds:.4f}")
    Console().print(table)
    facts = {"environment": describe_environment(devices=[str(device) for device in jax.devices()])}
    settings = {name: str(value) for name, value in dataclasses.asdict(options).items()}
    measured = {kind: dataclasses.asdict(row) for kind, row in found.items()}
    file = options.out / "cache.json"
    file.write_text(json.dumps(facts | {"settings": settings, "kinds": measured}, indent=2) + "\n")
    print(file)


if __name__ == "__main__":
    main()
