"""Our side of the benchmark of whole steps: the loop that `launch.py train` runs, on given batches."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.config import ObjectiveConfig, OptimizerConfig
from atkd_jax.interop import load_model
from atkd_jax.models import Decoder, logical_axes
from atkd_jax.objectives import make_objective
from atkd_jax.sharding import SumOverProcesses, make_mesh, parameter_shardings, replicated, shard_batch, spread
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.loop import LoopSettings, run_loop
from atkd_jax.training.metrics import MetricsWriter
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.state import TrainState
from atkd_jax.training.step import make_train_step
from atkd_jax.training.throughput import StepCosts
from benchmarks.training_turns import Turns
from benchmarks.training_workload import Workload, read_workload

_ENDLESS = 10**9


class TimedBatches:
    """Hands the batches out in turns; between them the fastest product of two matrices is measured."""

    def __init__(self, batches: np.ndarray, turns: Turns):
        self._batches, self._turns = batches, turns
        self._left = self._taken = 0
        self._product = Product()
        self.last: dict[str, jax.Array] = {}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._left:
            jax.block_until_ready(self.last)
            self._turns.stop()
            losses = {"loss": float(self.last["loss"])} if self.last else {}
            self._left = self._turns.next(**losses, matmul_flops=self._product.flops_per_second(), jax=jax.__version__)
        self._left -= 1
        tokens = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        return batch_of(tokens)

    def get_state(self) -> int:
        return self._taken

    @property
    def numbers(self) -> Mapping[str, int]:
        return {}

    def metrics(self, numbers: Mapping[str, int]) -> dict[str, float]:
        return {}


class Product:
    """Products of two large matrices in float32, of two sizes, of which the faster counts."""

    def __init__(self):
        self._squares = [jnp.full((size, size), 1 / size, jnp.float32) for size in (1024, 2048)]
        self._programs = [jax.jit(jnp.matmul).lower(square, square).compile() for square in self._squares]

    def flops_per_second(self) -> float:
        fastest = 0.0
        for _ in range(4):
            for square, program in zip(self._squares, self._programs, strict=True):
                began = time.perf_counter()
                program(square, square).block_until_ready()
                fastest = max(fastest, 2 * square.shape[0] ** 3 / (time.perf_counter() - began))
        return fastest


def batch_of(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Returns rows `[rows, length]` as the training step reads them: one document each, all but its first predicted."""
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return {"tokens": tokens, "positions": positions, "segment_ids": np.ones_like(tokens), "loss_mask": mask}


def load_models(workload: Workload) -> tuple[Decoder, Decoder]:
    """Returns the teacher and the student in float32."""
    kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    return load_model(workload.teacher, **kinds), load_model(workload.student, **kinds)


class CompiledStep(NamedTuple):
    """A compiled training step.

    Attributes:
        program: As XLA compiled it.
        step: Maps a state, which is donated, and a host's batch to the next state and the metrics.
        state: The state before the first step.
        mesh: Its devices.
    """

    program: jax.stages.Compiled
    step: Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, dict[str, jax.Array]]]
    state: TrainState
    mesh: Mesh


def compile_step(
    teacher: Decoder,
    student: Decoder,
    objective: str,
    shape: tuple[int, int],
    devices: Sequence[jax.Device],
    *,
    chunk_tokens: int = 512,
) -> CompiledStep:
    """Compiles the step that `launch.py train` compiles, for batches of `shape`.

    Parameters, optimizer and rows are split over all of the devices.
    """
    mesh = make_mesh(fsdp=len(devices), devices=devices)
    optimizer = make_optimizer(OptimizerConfig(), steps=_ENDLESS)
    (teacher_graph, teacher_params), (student_graph, params) = nnx.split(teacher), nnx.split(student)
    teacher_params = spread(teacher_params, parameter_shardings(mesh, logical_axes(teacher_params), teacher_params))
    state = place_state(params, mesh=mesh, optimizer=optimizer, seed=0)
    step_function = make_train_step(
        student=student_graph,
        teacher=teacher_graph,
        objective=make_objective(ObjectiveConfig.model_validate({"name": objective})),
        optimizer=optimizer,
        vocab_size=student.config.vocab_size,
        chunk_tokens=chunk_tokens,
        mesh=mesh,
    )
    shardings = jax.tree.map(lambda array: array.sharding, state)
    jitted = jax.jit(step_function, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    example = shard_batch(mesh, batch_of(np.zeros(shape, np.int32)))
    program = jitted.lower(state, teacher_params, example).compile()

    def step(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, jax.Array]]:
        return program(state, teacher_params, shard_batch(mesh, batch))

    return CompiledStep(program, step, state, mesh)


def main(path: Path, objective: str) -> None:
    """Trains until there is no turn left, in the loop that a run takes its steps in."""
    turns = Turns()
    workload = read_workload(path)
    shape = (workload.rows, workload.length)
    compiled = compile_step(*load_models(workload), objective, shape, jax.devices()[:1])
    batches = TimedBatches(np.load(workload.batches), turns)

    def step(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, jax.Array]]:
        state, batches.last = compiled.step(state, batch)
        return state, batches.last

    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder) / "checkpoints", keep=1) as checkpoints,
        closing(MetricsWriter(Path(folder))) as metrics,
        closing(ProgressLine(steps=_ENDLESS, start=0, console=Console(file=StringIO()))) as progress,
    ):
        run_loop(
            step,
            compiled.state,
            batches,
            place=lambda batch: batch,
            add_up=SumOverProcesses(compiled.mesh).start,
            settings=LoopSettings(_ENDLESS, 1, _ENDLESS, 5, StepCosts()),
            checkpoints=checkpoints,
            metrics=metrics,
            progress=progress,
            profile=ProfileWindow(Path(folder), start_step=None, steps=1),
            config={},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
