"""`launch.py plan --search`: runs like the config's, each compiled in a process of its own, and ranked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from operator import ne
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from atkd_jax.commands.plan_report import gibibytes, mesh_words
from atkd_jax.commands.verbs import PlanOptions
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.errors import InputError
from atkd_jax.sharding import make_meshes
from atkd_jax.sharding.chips import Chip
from atkd_jax.training.ahead_of_time import Shapes, held_by
from atkd_jax.training.compiled_step import require_even_batch

REMATS = ("none", "dots", "full")
# Of so many of the best meshes other settings are tried too.
_BEST_MESHES = 3


class Candidate(NamedTuple):
    """A config that was compiled: its plan, or why there is none."""

    config: Config
    plan: dict[str, Any] | None
    failure: str

    @property
    def seconds(self) -> float:
        """Of a step; without end where it does not fit."""
        fits = self.plan is not None and self.plan["fits"]
        return self.plan["step_seconds"] if fits and self.plan else float("inf")

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: the time of a step, and of those that do not fit the memory that they need."""
        needed = None if self.plan is None else self.plan["needed_bytes"]
        return self.seconds, float("inf") if needed is None else needed


def search(
    options: PlanOptions, *, shapes: Shapes, chip: Chip, devices: Sequence[Any], console: Console
) -> list[Candidate]:
    """Ranks runs like the config's by the estimated time of a step, prints them and returns them, the best first.

    Half of the candidates are meshes, with what the config says of the rest; the others, on the best of these, are
    remat policies, micro-batches and meshes of the teacher. Where there are fewer of one kind, there are more of the
    other. Each is compiled in a process of its own, so that one that the compiler dies of, or takes too long over, is
    an answer like another.

    Args:
        options: The verb's: how many and how long.
        shapes: The models.
        chip: Of the topology.
        devices: All of the topology's.
        console: Where the progress line and the table go.
    """
    begun, done = time.monotonic(), []
    seen: set[str] = set()

    def try_until(most: int, configs: Iterator[Config]) -> None:
        while len(done) < most and (config := next(configs, None)) is not None:
            key = dump_config(config)
            if key in seen:
                continue
            seen.add(key)
            if _may_fit(config, shapes, chip, devices):
                console.print(_progress(len(done) + 1, options, config, time.monotonic() - begun), highlight=False)
                done.append(_compiled(config, options))
                console.print(f"    {_outcome(done[-1])}", highlight=False)

    meshes, before = meshes_like(options.settings, len(devices)), -1
    while before < len(done) < options.candidates:
        before = len(done)
        try_until(before + -(-(options.candidates - before) // 2), meshes)
        try_until(options.candidates, variants_of(_best_meshes(done)))
    if not done:
        raise InputError(
            "plan: on no mesh of this topology can the batch be split and the weights be held; choose a larger one"
        )
    ranked = sorted(done, key=lambda each: each.rank)
    if options.json:
        print(json.dumps([each.plan or {"failure": each.failure} for each in ranked]))
    else:
        console.print(_table(ranked))
    return ranked


def meshes_like(config: Config, chips: int) -> Iterator[Config]:
    """Yields the config, and it on other meshes: powers of two along fsdp and tensor."""
    yield config
    for tensor in (1, 2, 4, 8):
        for fsdp in (2**power for power in range(10)):
            if chips % (fsdp * tensor * config.mesh.sequence) == 0:
                yield _with(config, mesh={"fsdp": fsdp, "tensor": tensor})


def variants_of(configs: Sequence[Config]) -> Iterator[Config]:
    """Yields the configs with other settings: of each in turn those with one change, then those with more.

    Settings are the remat policy, the number of micro-batches and, where the teacher has a mesh of its own, its fsdp.
    """
    for counts in ((1,), (2, 3)):
        for config in configs:
            own = config.training.remat, config.training.microbatches, config.mesh.teacher_fsdp
            for remat, microbatches, teacher_fsdp in _settings_like(config):
                if sum(map(ne, own, (remat, microbatches, teacher_fsdp))) in counts:
                    training = {"remat": remat, "microbatches": microbatches}
                    yield _with(config, training=training, mesh={"teacher_fsdp": teacher_fsdp})


def _settings_like(config: Config) -> Iterator[tuple[str, int, int | None]]:
    """Yields remat policies, numbers of micro-batches and the teacher's fsdp."""
    teacher_fsdp = config.mesh.teacher_fsdp
    for teacher in [None] if teacher_fsdp is None else _multiples(teacher_fsdp):
        for microbatches in _multiples(config.training.microbatches):
            if config.training.batch_size % microbatches == 0:
                for remat in REMATS:
                    yield remat, microbatches, teacher


def _multiples(number: int) -> list[int]:
    """Returns the number, and it halved, doubled and so twice, where these are whole."""
    return [int(number * factor) for factor in (1.0, 0.5, 2.0, 0.25, 4.0) if (number * factor).is_integer()]


def _best_meshes(done: Sequence[Candidate]) -> list[Config]:
    """Returns the best config of each of the best meshes."""
    best: dict[str, Config] = {}
    for each in sorted(done, key=lambda each: each.rank):
        best.setdefault(_mesh_words(each.config), each.config)
    return list(best.values())[:_BEST_MESHES]


def _with(config: Config, **changes: dict[str, Any]) -> Config:
    tree = config.model_dump()
    for group, values in changes.items():
        tree[group] |= values
    return Config.model_validate(tree)


def _may_fit(config: Config, shapes: Shapes, chip: Chip, devices: Sequence[Any]) -> bool:
    """Says whether the batch can be split, and what is held between steps leaves room for a gradient."""
    try:
        meshes = make_meshes(**config.mesh.model_dump(), devices=devices)
        require_even_batch(config, meshes)
    except InputError:
        return False
    held = held_by(config, shapes=shapes, meshes=meshes)
    return held.teacher + 2 * held.student + held.optimizer < 0.9 * chip.hbm_bytes


def _compiled(config: Config, options: PlanOptions) -> Candidate:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        words = [sys.executable, "-m", "atkd_jax.commands", "plan", "--config", str(file), "--json"]
        try:
            ended = subprocess.run(
                [*words, "--topology", options.topology], capture_output=True, text=True, timeout=options.limit_seconds
            )
        except subprocess.TimeoutExpired:
            return Candidate(config, None, f"not compiled within {options.limit_seconds} s")
    try:
        return Candidate(config, json.loads(ended.stdout.splitlines()[-1]), "")
    except (IndexError, ValueError):
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Candidate(config, None, f"the compiler ended with code {ended.returncode}: {last}")


def _progress(number: int, options: PlanOptions, config: Config, seconds: float) -> str:
    training = config.training
    return (
        f"{number} of at most {options.candidates}, {seconds:.0f} s: {_mesh_words(config)}, remat "
        f"{training.remat}, {training.microbatches} micro-batches"
    )


def _mesh_words(config: Config) -> str:
    mesh = {name: size for name, size in config.mesh.model_dump().items() if size is not None}
    return mesh_words(mesh).replace("one chip", "data alone")


def _outcome(candidate: Candidate) -> str:
    plan = candidate.plan
    if plan is None:
        return candidate.failure
    if not plan["fits"]:
        return f"does not fit: {gibibytes(plan['needed_bytes'])} of {gibibytes(plan['hbm_bytes'])}"
    return f"fits, {plan['step_seconds']:.3f} s a step, MFU {plan['mfu']:.1%}"


def _table(ranked: Sequence[Candidate]) -> Table:
    columns = ("mesh", "remat", "micro-batches", "memory", "step", "tokens/s", "MFU")
    table = Table(*columns, title="The best first", title_justify="left")
    for place in (2, 3, 4, 5, 6):
        table.columns[place].justify = "right"
    for each in ranked:
        training, plan = each.config.training, each.plan
        cells = [_mesh_words(each.config), training.remat, str(training.microbatches)]
        if plan is None:
            table.add_row(*cells, "unknown", each.failure, "", "")
        elif not plan["fits"]:
            table.add_row(*cells, gibibytes(plan["needed_bytes"]), "does not fit", "", "")
        else:
            speed = f"{plan['step_seconds']:.3f} s", f"{plan['tokens_per_second']:,.0f}", f"{plan['mfu']:.1%}"
            table.add_row(*cells, gibibytes(plan["needed_bytes"]), *speed)
    return table
