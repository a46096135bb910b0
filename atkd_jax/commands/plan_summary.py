"""A compiled step's plan as plain numbers, for a table, for JSON and for ranking; and what to change in it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from atkd_jax.config import Config
from atkd_jax.models.flops import distillation_flops
from atkd_jax.sharding.chips import Chip
from atkd_jax.training.ahead_of_time import Ahead, Shapes

_GIB = 2.0**30


def summary_of(config: Config, *, shapes: Shapes, chip: Chip, topology: str, ahead: Ahead) -> dict[str, Any]:
    """Returns the plan as JSON has it. Bytes, operations and seconds are of one chip and one step.

    Args:
        config: The run.
        shapes: Its models.
        chip: Of the topology.
        topology: Its name.
        ahead: The compiled step.
    """
    chips = int(np.prod([int(size) for size in topology.partition(":")[2].split("x")]))
    fits = ahead.memory is not None and ahead.needed_bytes <= chip.hbm_bytes
    plan: dict[str, Any] = {
        "topology": topology,
        "chips": chips,
        "mesh": _mesh_of(config, chips),
        "remat": config.training.remat,
        "microbatches": config.training.microbatches,
        "batch_tokens": config.training.batch_size * config.data.sequence_length,
        "fits": fits,
        "hbm_bytes": chip.hbm_bytes,
        "needed_bytes": None if ahead.needed_bytes == float("inf") else ahead.needed_bytes,
        "held": ahead.held._asdict(),
        "compile_seconds": ahead.compile_seconds,
        "libtpu": _libtpu_version(),
        "jax": jax.__version__,
    }
    if ahead.memory is not None and ahead.cost is not None:
        plan["memory"] = ahead.memory._asdict() | {"total": ahead.memory.total}
        plan |= _speed(config, shapes, chip, chips, ahead)
    return plan | {"advice": advice(config, plan, chip=chip, shapes=shapes)}


def _mesh_of(config: Config, chips: int) -> dict[str, int]:
    mesh = {name: size for name, size in config.mesh.model_dump().items() if size is not None}
    return {"data": chips // (config.mesh.fsdp * config.mesh.sequence * config.mesh.tensor)} | mesh


def _libtpu_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("libtpu")
    except PackageNotFoundError:
        return "unknown"


def _speed(config: Config, shapes: Shapes, chip: Chip, chips: int, ahead: Ahead) -> dict[str, Any]:
    cost = ahead.cost
    assert cost is not None
    tokens = config.training.batch_size * config.data.sequence_length
    needed = distillation_flops(
        student=shapes.student,
        teacher=shapes.teacher if config.objective.reads_teacher else None,
        runs_teacher_layers=config.objective.token_similarity.scale is None,
        length=config.data.sequence_length,
        tokens=tokens,
        counted_tokens=tokens,
    )
    peak = chips * chip.flops_per_second
    return {
        "flops": cost.flops,
        "hbm_traffic_bytes": cost.hbm_bytes,
        "cycle_seconds": cost.cycle_seconds,
        "roofline_seconds": cost.roofline_seconds,
        "blocking_collective_seconds": cost.blocking_seconds,
        "collectives": [each._asdict() for each in cost.collectives],
        "step_seconds": cost.step_seconds,
        "best_seconds": cost.best_seconds,
        "tokens_per_second": tokens / cost.step_seconds,
        "mfu": needed / (cost.step_seconds * peak),
        "best_mfu": needed / (cost.best_seconds * peak),
    }


def advice(config: Config, plan: dict[str, Any], *, chip: Chip, shapes: Shapes) -> list[str]:
    """Returns what to change where the step does not fit, what helps most first; nothing where it fits.

    Args:
        config: The run.
        plan: What is known of it so far.
        chip: Of the topology.
        shapes: The models.
    """
    if plan["fits"]:
        return []
    held, mesh, chips = plan["held"], plan["mesh"], plan["chips"]
    state = held["student"] + held["optimizer"]
    teacher_fsdp = mesh.get("teacher_fsdp", mesh["fsdp"])
    rows = config.training.batch_size // (mesh["data"] * mesh["fsdp"])
    found = []
    if state > 0.3 * chip.hbm_bytes and mesh["data"] > 1:
        found.append(
            f"mesh.fsdp={2 * mesh['fsdp']}: the student and its optimizer take {state / _GIB:.1f} GiB of a chip, which "
            "this halves"
        )
    most = chips // (mesh.get("teacher_tensor", mesh["tensor"]) * mesh["sequence"])
    if held["teacher"] > 0.15 * chip.hbm_bytes and teacher_fsdp < most:
        found.append(
            f"mesh.teacher_fsdp={min(4 * teacher_fsdp, most)}: the teacher takes {held['teacher'] / _GIB:.1f} GiB of "
            "a chip, and is only read"
        )
    if config.training.dtype == "float32" or config.teacher.dtype == "float32":
        found.append("training.dtype=bfloat16 and teacher.dtype=bfloat16: they halve activations and the teacher")
    if config.training.remat != "full":
        found.append("training.remat=full: the backward pass then keeps one state a layer and computes the rest again")
    if rows > config.training.microbatches:
        found.append(
            f"training.microbatches={2 * config.training.microbatches}: half as many of a chip's {rows} rows at a time"
        )
    if config.training.chunk_tokens > 256:
        found.append("training.chunk_tokens=256: both models' logits of fewer tokens at a time")
    if mesh["tensor"] < shapes.student.num_kv_heads:
        found.append(
            f"mesh.tensor={2 * mesh['tensor']}: heads, MLPs and the vocabulary's columns are split once more, at the "
            "price of collectives in every layer"
        )
    if config.data.sequence_length >= 8192:
        found.append(f"mesh.sequence={2 * mesh['sequence']}: the tokens of a row are split, for long rows")
    return found
