"""What stands before the first step: the student, cut from a float teacher, and then the teacher as it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.config import Config
from atkd_jax.models import Decoder, Pruning
from atkd_jax.sharding import Meshes
from atkd_jax.teachers import LoadedTeacher, Quantization, quantize_teacher
from atkd_jax.training.calibration import Batch, first_batches, pruning_of_run, write_pruning
from atkd_jax.training.instance_threshold import Threshold, cached_threshold, measured_threshold, read_threshold
from atkd_jax.training.placement import placing_on
from atkd_jax.training.reading import has_checkpoint
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.student import build_student, student_config
from atkd_jax.training.teaching import Cached

QUANTIZATION_NAME = "teacher_quantization.json"


class Start(NamedTuple):
    """A run before its first step.

    Attributes:
        student: Its weights on the default device.
        pruning: What was chosen of the teacher by data just now, with the figures behind it; None if nothing was.
        quantization: How the teacher was stored; None if it is in float.
        threshold: Of AdaKD, measured now or when the run began; None where there is none to measure.
    """

    student: Decoder
    pruning: tuple[Pruning, dict[str, object]] | None
    quantization: Quantization | None
    threshold: Threshold | None

    def write(self, run_dir: Path) -> None:
        """Keeps what was measured in the run directory; the first process does."""
        if jax.process_index() != 0:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        if self.pruning is not None:
            write_pruning(run_dir, *self.pruning)
        if self.quantization is not None:
            text = json.dumps(self.quantization._asdict(), indent=2)
            (run_dir / QUANTIZATION_NAME).write_text(text + "\n", encoding="utf-8")
        if self.threshold is not None:
            self.threshold.write(run_dir)


def prepare_start(
    config: Config,
    teacher: LoadedTeacher,
    *,
    meshes: Meshes,
    open_batches: Callable[[], SharedBatches],
    report: Callable[[str], None],
    cached: Cached | None = None,
) -> Start:
    """Returns the run's start. Where the config says so, the teacher's weights become integers, in place.

    A run that has checkpoints keeps what was chosen for it when it began, and measures nothing anew.

    Args:
        config: The run.
        teacher: In float.
        meshes: How the devices are arranged for each model.
        open_batches: Opens the run's batches at their beginning.
        report: Is told, in a sentence, what was measured.
        cached: What stands for the teacher, if a cache does.

    Raises:
        InputError: if the student does not fit the teacher, or a package is missing.
    """
    student_config(config.student, teacher=teacher.model.config, cache_dir=config.cache_dir)
    count = config.student.calibration_batches if config.student.needs_measuring else 1
    batches = cache(partial(first_batches, open_batches, meshes=meshes, count=count))
    chosen, facts = pruning_of_run(
        config.student,
        config.run_dir,
        is_begun=has_checkpoint(config.run_dir / "checkpoints"),
        teacher=teacher.model,
        batches=batches,
        mesh=meshes.teacher,
        report=report,
    )
    measured = None if chosen is None or facts is None else (chosen, facts)
    student = build_student(
        config.student,
        teacher=teacher.model,
        dtype=jnp.dtype(config.training.dtype),
        remat=config.training.remat,
        seed=config.seed,
        pruning=chosen,
        cache_dir=config.cache_dir,
        place=placing_on(meshes.student),
    )
    student.attend_by(config.training.attention)
    quantization = None
    if config.teacher.quantize is not None:
        quantization = quantize_teacher(
            teacher.model,
            config.teacher.quantize,
            batch=_in_the_teachers_tokens(batches()[0]),
            vocab_size=len(teacher.tokenizer),
            chunk_tokens=config.training.chunk_tokens,
            place=placing_on(meshes.teacher),
            mesh=meshes.teacher,
        )
        report(quantization.sentence())
    return Start(student, measured, quantization, _threshold(config, teacher, cached, meshes=meshes, report=report))


def _in_the_teachers_tokens(batch: Batch) -> Batch:
    if "teacher_tokens" not in batch:
        return batch
    inputs = {name: batch[f"teacher_{name}"] for name in ("tokens", "positions", "segment_ids")}
    # Which of its tokens belong to a response is not told, and of no matter for how far it has moved.
    return inputs | {"loss_mask": inputs["segment_ids"] > 0}


def _threshold(
    config: Config, teacher: LoadedTeacher, cached: Cached | None, *, meshes: Meshes, report: Callable[[str], None]
) -> Threshold | None:
    weighting = config.objective.instance_weighting
    if not weighting.is_on or weighting.threshold is not None:
        return None
    if has_checkpoint(config.run_dir / "checkpoints"):
        return read_threshold(config.run_dir)
    if cached is not None:
        return cached_threshold(config, cached.open_signals(), report=report)
    return measured_threshold(config, teacher, meshes=meshes, report=report)
