"""`launch.py export`: the run's student as a Hugging Face directory, `student/` in the run directory."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from atkd_jax import __version__
from atkd_jax.commands.command_line import Options
from atkd_jax.commands.student import read_trained_student
from atkd_jax.config import Config
from atkd_jax.interop import KNOWN_MODELS, export_model, fetch_model, load_tokenizer, model_card, read_config


def run(options: Options) -> None:
    """Writes the newest checkpoint's student and prints the directory."""
    config = options.settings
    teacher = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=print)
    student, step = read_trained_student(config, teacher=read_config(teacher))
    directory = config.run_dir / "student"
    export_model(
        student,
        directory,
        tokenizer=load_tokenizer(teacher),
        dtype=jnp.dtype(config.export.dtype),
        max_shard_bytes=config.export.max_shard_bytes,
        model_card=student_card(config, step=step),
        generation_config=generation_settings(teacher),
    )
    print(directory)


def generation_settings(directory: Path) -> dict[str, Any]:
    """How the teacher is sampled from, which its student is used to as well; empty if its directory does not say."""
    path = directory / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: value for name, value in settings.items() if name not in ("transformers_version", "_from_model_config")
    }


def student_card(config: Config, *, step: int) -> str:
    """The model card: what taught the student on which data, and how it was measured, if it was.

    Args:
        config: The run.
        step: The checkpoint that is exported.
    """
    known = KNOWN_MODELS.get(config.teacher.model)
    is_directory = Path(config.teacher.model).expanduser().is_dir()
    teacher = known.hub_id if known else Path(config.teacher.model).name if is_directory else config.teacher.model
    sections: dict[str, Any] = {"Training": _training_facts(config, teacher=teacher, step=step)}
    measured = _measured(config, step=step)
    if measured:
        sections["Evaluation"] = measured
    return model_card(
        title=f"{config.run_dir.name}: a student of {teacher}",
        summary=f"Distilled from {teacher} by {config.objective.name} with atkd_jax {__version__}.",
        sections=sections,
        base_model=None if is_directory and not known else teacher,
        license=known.license if known else None,
    )


def _training_facts(config: Config, *, teacher: str, step: int) -> dict[str, object]:
    student = config.student
    starts = {
        "prune": f"{teacher}, layers {', '.join(map(str, student.keep_layers)) or f'{student.layers}, evenly spaced'}",
        "directory": str(student.directory and student.directory.name),
        "scratch": f"random weights, size {student.size}",
    }
    return {
        "teacher": teacher,
        "student's start": starts[student.init],
        "data": f"{config.data.source}, {config.data.train_split}",
        "objective": json.dumps(config.objective.model_dump(mode="json")),
        "optimizer steps": step,
        "rows x tokens per step": f"{config.training.batch_size} x {config.data.sequence_length}",
        "peak learning rate": config.optimizer.learning_rate,
        "seed": config.seed,
    }


def _measured(config: Config, *, step: int) -> dict[str, dict[str, object]]:
    """The table of evaluation.json, turned: a row per model; empty unless it is this checkpoint's."""
    path = config.run_dir / "evaluation.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["models"] if kept.get("checkpoint_step") == step else {}
