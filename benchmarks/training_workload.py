"""What all sides of the benchmark of whole steps train: one teacher, one student, the same batches."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from atkd_jax.data import open_source
from atkd_jax.interop import export_model, fetch_model, load_model, load_tokenizer, read_config
from atkd_jax.models import Pruning, evenly_spaced_layers, prune_model
from atkd_jax.models.flops import distillation_flops

TEACHER = "smollm2-135m-instruct"
BATCHES = 4


@dataclass(frozen=True)
class Workload:
    """Directories in Hugging Face layout, and token ids.

    Attributes:
        teacher: SmolLM2-135M-Instruct.
        student: A depth-pruned copy of it, exported.
        batches: A file of int32 `[batches, rows, length]`: functions of the standard library, one after the other,
            without padding. Every token but a row's first is predicted and counts.
        rows: Of a batch.
        length: Tokens of a row.
    """

    teacher: str
    student: str
    batches: str
    rows: int
    length: int

    @property
    def counted_tokens(self) -> int:
        """Tokens of a batch that the loss is on."""
        return self.rows * (self.length - 1)

    def step_flops(self) -> float:
        """Returns what a step must compute: see `distillation_flops`."""
        return distillation_flops(
            student=read_config(self.student),
            teacher=read_config(self.teacher),
            length=self.length,
            tokens=self.rows * self.length,
            counted_tokens=self.counted_tokens,
        )


def prepare_workload(folder: Path, *, cache_dir: Path, layers: int, rows: int, length: int) -> Path:
    """Writes a workload and returns its file.

    Args:
        folder: Where it goes.
        cache_dir: Where the teacher and the text are kept, or brought to.
        layers: How many of the teacher's layers the student keeps.
        rows: Of a batch.
        length: Tokens of a row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    directory = fetch_model(TEACHER, cache_dir=cache_dir)
    tokenizer = load_tokenizer(directory)
    student = folder / "student"
    if not student.exists():
        teacher = load_model(directory, dtype=jnp.float32, param_dtype=jnp.float32)
        export_model(
            prune_model(teacher, Pruning(evenly_spaced_layers(teacher.config.num_layers, layers)), dtype=jnp.float32),
            student,
            tokenizer=tokenizer,
            dtype="float32",
            max_shard_bytes=10**10,
            model_card="The student of a benchmark.\n",
            generation_config={},
        )
    batches = folder / "batches.npy"
    np.save(batches, _token_ids(tokenizer, cache_dir, BATCHES * rows * length).reshape(BATCHES, rows, length))
    workload = Workload(str(directory), str(student), str(batches), rows, length)
    path = folder / "workload.json"
    path.write_text(json.dumps(asdict(workload), indent=2) + "\n")
    return path


def read_workload(path: Path) -> Workload:
    """Returns the workload that `prepare_workload` wrote."""
    return Workload(**json.loads(path.read_text()))


def _token_ids(tokenizer, cache_dir: Path, count: int) -> np.ndarray:
    examples = open_source("python_stdlib", split="train", cache_dir=cache_dir)
    ids: list[int] = []
    number = 0
    while len(ids) < count:
        example = examples[number % len(examples)]
        ids += tokenizer.encode(f"{example.prompt}\n{example.response}\n", add_special_tokens=False)
        number += 1
    return np.asarray(ids[:count], np.int32)
