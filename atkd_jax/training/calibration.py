"""What is measured on the first batches before a run starts: which parts of the teacher the student keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.config_student import StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, Importance, Pruning, logical_axes, measure_importance
from atkd_jax.sharding import Meshes, parameter_shardings, replicated, row_sharding, shard_batch, spread
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.student import choose_pruning

PRUNING_NAME = "pruning.json"
Batch = dict[str, jax.Array]


def first_batches(open_batches: Callable[[], SharedBatches], *, meshes: Meshes, count: int) -> list[Batch]:
    """Returns a run's first batches, on the teacher's mesh; every process must call it."""
    by_rows = row_sharding(meshes.teacher)
    with closing(open_batches()) as batches:
        return [jax.device_put(shard_batch(meshes.student, batch), by_rows) for batch in islice(batches, count)]


def pruning_of_run(
    config: StudentConfig,
    run_dir: Path,
    *,
    is_begun: bool,
    teacher: Decoder,
    batches: Callable[[], Sequence[Batch]],
    mesh: Mesh,
    report: Callable[[str], None],
) -> tuple[Pruning | None, dict[str, object] | None]:
    """Returns what is kept of the teacher where data choose it, and the figures behind it if it was measured just now.

    A run that has begun keeps what was chosen for it then.

    Args:
        config: How much is kept.
        run_dir: The run.
        is_begun: Whether it has a checkpoint.
        teacher: In float, as it was loaded.
        batches: Gives those to measure on.
        mesh: Where the batches live.
        report: Is told, in a sentence, what was chosen.

    Raises:
        InputError: if the run has begun and does not say what was chosen.
    """
    if not config.needs_measuring:
        return None, None
    if is_begun:
        return read_pruning(run_dir), None
    return measured_pruning(config, teacher=teacher, batches=batches(), mesh=mesh, report=report)


def measured_pruning(
    config: StudentConfig,
    *,
    teacher: Decoder,
    batches: Sequence[Batch],
    mesh: Mesh,
    report: Callable[[str], None],
) -> tuple[Pruning, dict[str, object]]:
    """Returns what is kept of the teacher by what it does with some batches, and the figures behind the choice.

    Args:
        config: How much is kept.
        teacher: In float, as it was loaded.
        batches: At least one.
        mesh: Where the batches live.
        report: Is told, in a sentence, what was chosen.
    """
    graphdef, params = nnx.split(teacher)
    params = spread(params, parameter_shardings(mesh, logical_axes(params), params))

    @jax.jit
    def measure(params: nnx.State, batch: Batch) -> Importance:
        inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
        found = measure_importance(nnx.merge(graphdef, params), **inputs)
        return jax.lax.with_sharding_constraint(found, replicated(mesh))

    parts = [jax.tree.map(np.asarray, measure(params, batch)) for batch in batches]
    importance = Importance(*(np.sum(np.stack(each), axis=0) for each in zip(*parts, strict=True)))
    pruning = choose_pruning(config, teacher=teacher.config, importance=importance)
    influence = [round(float(each), 6) for each in importance.distance / np.maximum(importance.tokens, 1)]
    what = [f"{len(pruning.layers)} of {teacher.config.num_layers} layers ({', '.join(map(str, pruning.layers))})"]
    if config.mlp_width is not None:
        what.append(f"{config.mlp_width} of {teacher.config.mlp_width} MLP units")
    if config.kv_heads is not None:
        what.append(f"{config.kv_heads} of {teacher.config.num_kv_heads} key-value heads")
    report(f"Of the teacher the student keeps {'; '.join(what)}, chosen on {int(importance.tokens):,} tokens.")
    return pruning, {"tokens": int(importance.tokens), "block_influence": influence}


def write_pruning(run_dir: Path, pruning: Pruning, facts: Mapping[str, object]) -> None:
    """Keeps what was chosen, and why, as pruning.json in the run directory."""
    text = json.dumps({**pruning.to_json(), **facts})
    (run_dir / PRUNING_NAME).write_text(text + "\n", encoding="utf-8")


def read_pruning(run_dir: Path) -> Pruning:
    """Returns what was chosen when the run started.

    Raises:
        InputError: if the run directory does not say.
    """
    file = run_dir / PRUNING_NAME
    try:
        return Pruning.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} must say which parts of the teacher the run's student has, but cannot be read ({error}); take it "
            "from where the run was started."
        ) from None
