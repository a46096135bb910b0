"""`launch.py export`: the run's student as a Hugging Face directory, `student/` in the run directory, or as GGUF."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from atkd_jax import __version__
from atkd_jax.commands.scorers import export_scorer
from atkd_jax.commands.student import base_of_adapters, read_trained_student
from atkd_jax.commands.verbs import ExportOptions
from atkd_jax.commands.verify_export import require_torch, verify_adapter, verify_export
from atkd_jax.config import Config
from atkd_jax.config_student import StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import (
    KNOWN_MODELS,
    export_adapter,
    export_gguf,
    export_model,
    fetch_model,
    load_tokenizer,
    model_card,
)
from atkd_jax.models import Decoder, merge_adapters
from atkd_jax.training.student import student_directory, student_tokenizer


def run(options: ExportOptions) -> None:
    """Writes a checkpoint's student, checks it if that is asked for, and prints where it stands."""
    config = options.settings
    if config.answers.source is not None:
        if options.out is not None:
            raise InputError("launch.py: --out is for language models; a scorer goes into its run directory.")
        export_scorer(config, console=Console())
        return
    out = None if options.out is None else options.out.expanduser()
    as_adapter = config.student.lora.rank is not None and config.export.lora == "adapter"
    _check(options, as_adapter=as_adapter)
    teacher = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=print)
    student, step = read_trained_student(config, teacher_directory=teacher, step=options.step)
    tokenizer, card = student_tokenizer(config, load_tokenizer(teacher)), student_card(config, step=step)
    # How a model is sampled from goes with its tokens.
    origin = student_directory(config.student, cache_dir=config.cache_dir) if config.objective.pairs_tokens else teacher
    if as_adapter:
        directory = out or config.run_dir / "adapter"
        _write_adapter(config, student, directory, origin, tokenizer, card, verify=options.verify)
        print(directory)
        return
    if config.student.lora.rank is not None:
        nnx.update(student, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nnx.state(student)))
        merge_adapters(student)
    if options.format == "gguf":
        file = out or config.run_dir / "student.gguf"
        export_gguf(student, file, tokenizer=tokenizer, name=config.run_dir.name)
        print(file)
        return
    directory = out or config.run_dir / "student"
    _write(config, student, directory, origin, tokenizer, card)
    if options.verify:
        print(verify_export(directory).sentence())
    print(directory)


def _check(options: ExportOptions, *, as_adapter: bool) -> None:
    if options.verify:
        require_torch()
    if options.format == "gguf" and (as_adapter or options.verify):
        given = "--verify" if options.verify else "export.lora=adapter"
        raise InputError(
            f"launch.py: --format gguf writes full weights and reads them back by itself, so it goes without {given}; "
            "leave one of the two out."
        )


def _write(
    config: Config, model: Decoder, directory: Path, origin: Path, tokenizer: PreTrainedTokenizerFast, card: str
) -> None:
    export_model(
        model,
        directory,
        tokenizer=tokenizer,
        dtype=jnp.dtype(config.export.dtype),
        max_shard_bytes=config.export.max_shard_bytes,
        model_card=card,
        generation_config=generation_settings(origin),
    )


def _write_adapter(
    config: Config,
    student: Decoder,
    directory: Path,
    origin: Path,
    tokenizer: PreTrainedTokenizerFast,
    card: str,
    *,
    verify: bool,
) -> None:
    """Writes the adapters; and, where they were trained beside no model of its own, what they were trained beside."""
    base = base_of_adapters(config)
    if base is None:
        base = str((config.run_dir / "adapter_base").absolute())
        _write(config, _without_adapters(student), Path(base), origin, tokenizer, card)
        print(base)
    export_adapter(student, directory, base=base, tokenizer=tokenizer, model_card=card)
    if verify:
        print(verify_adapter(student, directory, tokenizer=tokenizer).sentence())


def _without_adapters(student: Decoder) -> Decoder:
    base = nnx.clone(student)
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(base, nnx.LoRAParam))
    nnx.update(base, zeros)
    merge_adapters(base)
    return base


def generation_settings(directory: Path) -> dict[str, Any]:
    """How a model is sampled from, which its student is used to as well; empty if its directory does not say."""
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
    is_local = Path(config.teacher.model).expanduser().exists()
    teacher = known.hub_id if known else Path(config.teacher.model).name if is_local else config.teacher.model
    sections: dict[str, Any] = {"Training": _training_facts(config, teacher=teacher, step=step)}
    measured = _measured(config, step=step)
    if measured:
        sections["Evaluation"] = measured
    return model_card(
        title=f"{config.run_dir.name}: a student of {teacher}",
        summary=f"Distilled from {teacher} by {config.objective.name} with atkd_jax {__version__}.",
        sections=sections,
        base_model=None if is_local and not known else teacher,
        license=known.license if known else None,
    )


def _training_facts(config: Config, *, teacher: str, step: int) -> dict[str, object]:
    student = config.student
    starts = {
        "prune": f"{teacher}, {_kept(student)}",
        "directory": str(student.directory and student.directory.name),
        "scratch": f"random weights, size {student.size}",
    }
    adapters = (
        {} if student.lora.rank is None else {"adapters": f"rank {student.lora.rank}, alpha {student.lora.alpha}"}
    )
    return {
        "teacher": teacher,
        "student's start": starts[student.init],
        **adapters,
        "data": f"{config.data.source}, {config.data.train_split}",
        "objective": json.dumps(config.objective.model_dump(mode="json")),
        "optimizer steps": step,
        "rows x tokens per step": f"{config.training.batch_size} x {config.data.sequence_length}",
        "peak learning rate": config.optimizer.learning_rate,
        "seed": config.seed,
    }


def _kept(student: StudentConfig) -> str:
    by = "evenly spaced" if student.layer_choice == "even" else "by block influence"
    layers = ", ".join(map(str, student.keep_layers)) or (f"{student.layers}, {by}" if student.layers else "all")
    parts = [f"layers {layers}"]
    if student.mlp_width is not None:
        parts.append(f"{student.mlp_width} MLP units")
    if student.kv_heads is not None:
        parts.append(f"{student.kv_heads} key-value heads")
    return "; ".join(parts)


def _measured(config: Config, *, step: int) -> dict[str, dict[str, object]]:
    """The table of evaluation.json, turned: a row per model; empty unless it is this checkpoint's."""
    path = config.run_dir / "evaluation.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["models"] if kept.get("checkpoint_step") == step else {}
