"""`launch.py train --dry-run`: what a run would be, from shapes alone; no weight is read and nothing is compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, Sharding
from rich.console import Console
from rich.table import Table

from atkd_jax.commands.student import abstract_decoder
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.interop import fetch_model, read_config
from atkd_jax.models import DecoderConfig, logical_axes, split_trained
from atkd_jax.sharding import TOKENS, Meshes, make_meshes, parameter_shardings, row_sharding
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import state_shardings
from atkd_jax.training.state import initial_state
from atkd_jax.training.student import student_config
from atkd_jax.training.teaching import teaching_model


class Parameter(NamedTuple):
    """One array of weights: its name, its shape, the mesh axis per dimension, and its part on each device."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    shard_shape: tuple[int, ...]


class Memory(NamedTuple):
    """Bytes of one kind of array, in all and on each device."""

    what: str
    total_bytes: int
    device_bytes: int


class Plan(NamedTuple):
    """What a run would hold."""

    teacher_parameters: int
    student_parameters: int
    trained_parameters: int
    student: list[Parameter]
    memory: list[Memory]


def print_dry_run(config: Config, *, console: Console) -> None:
    """Prints the resolved config, parameter counts, shardings and memory.

    The teacher's config.json is needed, so that a teacher that is not in the cache yet is fetched.
    """
    directory = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=console.print)
    teacher = read_config(directory)
    student = student_config(config.student, teacher=teacher, cache_dir=config.cache_dir)
    meshes = make_meshes(**config.mesh.model_dump())
    plan = make_plan(config, meshes=meshes, teacher=teacher, student=student)
    console.print(dump_config(config), highlight=False, soft_wrap=True)
    console.print(
        f"mesh: {', '.join(f'{axis} {size}' for axis, size in meshes.student.shape.items())}", highlight=False
    )
    console.print(_models_table(config, plan, teacher, student))
    console.print(_shardings_table(plan.student))
    console.print(_memory_table(plan.memory))
    console.print("Nothing was started.")


def make_plan(config: Config, *, meshes: Meshes, teacher: DecoderConfig, student: DecoderConfig) -> Plan:
    """Counts parameters and bytes from shapes.

    Args:
        config: The run.
        meshes: The devices that it would run on.
        teacher: The teacher's shape.
        student: The student's shape.

    Returns:
        The plan. Its memory is what a step holds for certain; the activations that the backward pass keeps come on top.
    """
    mesh = meshes.student
    loaded = abstract_decoder(
        teacher, dtype="float32", param_dtype=config.teacher.dtype, quantize=config.teacher.quantize
    )
    teacher_params = nnx.split(nnx.eval_shape(partial(teaching_model, config), loaded))[1]
    lora = config.student.lora
    kept = "float32" if lora.rank is None else config.training.dtype
    _, trained, frozen = split_trained(abstract_decoder(student, dtype="float32", param_dtype=kept, lora=lora))
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    state = jax.eval_shape(lambda params: initial_state(params, optimizer=optimizer, seed=0), trained)
    shardings = state_shardings(trained, mesh=mesh, optimizer=optimizer)

    def by_table(params: Any, mesh: Mesh) -> Any:
        return parameter_shardings(mesh, logical_axes(params), params)

    what = "weights" if lora.rank is None else "adapters"
    live_teacher = []
    if config.teacher.cache is None:
        live_teacher = [_memory("teacher's weights", teacher_params, by_table(teacher_params, meshes.teacher))]
    memory = [
        *live_teacher,
        *(_memory("student's frozen weights", each, by_table(each, mesh)) for each in frozen),
        _memory(f"student's {what}", trained, shardings.params),
        _memory("student's gradient", trained, shardings.params),
        _memory("optimizer's state", state.optimizer_state, shardings.optimizer_state),
        *_step_memory(config, mesh, teacher=teacher, student=student),
    ]
    trained_count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    weights = _parameters(trained, shardings.params)
    is_model = config.objective.token_similarity.scale is None
    teacher_count = _count(teacher) if is_model else sum(leaf.size for leaf in jax.tree.leaves(teacher_params))
    return Plan(teacher_count, _count(student), trained_count, weights, memory)


def _step_memory(config: Config, mesh: Mesh, *, teacher: DecoderConfig, student: DecoderConfig) -> list[Memory]:
    rows, length = config.training.batch_size, config.data.sequence_length
    integers = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((rows, length), jnp.bool_)
    hidden = jax.ShapeDtypeStruct((rows, length, teacher.head_width), jnp.dtype(config.teacher.dtype))
    arrays = {"batch": [integers, integers, integers, mask], "teacher's hidden states": [hidden]}
    by_rows = row_sharding(mesh)
    held = [_memory(what, group, [by_rows] * len(group)) for what, group in arrays.items()]
    return [*held, _logits_memory(config, mesh, (teacher.vocab_size, student.vocab_size))]


def _logits_memory(config: Config, mesh: Mesh, vocabularies: Sequence[int]) -> Memory:
    """Returns what the logits of one chunk of tokens take, of which every device has its own."""
    tokens = config.training.batch_size * config.data.sequence_length // config.training.microbatches
    chunk = min(config.training.chunk_tokens, tokens // math.prod(mesh.shape[axis] for axis in TOKENS))
    on_device = sum(4 * chunk * -(-vocabulary // config.mesh.tensor) for vocabulary in vocabularies)
    return Memory("both models' logits", on_device * mesh.size, on_device)


def _count(shape: DecoderConfig) -> int:
    model = abstract_decoder(shape, dtype="float32", param_dtype="float32")
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))


def _parameters(params: Any, shardings: Any) -> list[Parameter]:
    found = []
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), sharding in zip(named, jax.tree.leaves(shardings), strict=True):
        axes = tuple(str(axis or "-") for axis in sharding.spec)
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        found.append(Parameter(name, leaf.shape, axes, sharding.shard_shape(leaf.shape)))
    return found


def _memory(what: str, arrays: Any, shardings: Any) -> Memory:
    leaves, places = jax.tree.leaves(arrays), jax.tree.leaves(shardings)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    on_device = sum(
        math.prod(_shard_shape(place, leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(leaves, places, strict=True)
    )
    return Memory(what, total, on_device)


def _shard_shape(sharding: Sharding, shape: Sequence[int]) -> tuple[int, ...]:
    return sharding.shard_shape(tuple(shape))


def _models_table(config: Config, plan: Plan, teacher: DecoderConfig, student: DecoderConfig) -> Table:
    table = Table("", "parameters", "trained", "layers", "width", "vocabulary", title="Models", title_justify="left")
    is_model = config.objective.token_similarity.scale is None
    teaches, layers = ("teacher", teacher.num_layers) if is_model else ("its embeddings, which teach", 0)
    for name, shape, count, trained, depth in (
        (teaches, teacher, plan.teacher_parameters, 0, layers),
        ("student", student, plan.student_parameters, plan.trained_parameters, student.num_layers),
    ):
        sizes = (f"{count:,}", f"{trained:,}", str(depth), str(shape.width), f"{shape.vocab_size:,}")
        table.add_row(name, *sizes)
    return table


def _shardings_table(parameters: Sequence[Parameter]) -> Table:
    table = Table("", "shape", "mesh axes", "on a device", title="What is trained", title_justify="left")
    for own in parameters:
        table.add_row(own.name, _times(own.shape), ", ".join(own.axes), _times(own.shard_shape))
    return table


def _memory_table(memory: Sequence[Memory]) -> Table:
    caption = "without the activations that the backward pass keeps"
    table = Table("", title="Memory", caption=caption, title_justify="left")
    table.add_column("in all", justify="right")
    table.add_column("on a device", justify="right")
    for line in memory:
        table.add_row(line.what, _mebibytes(line.total_bytes), _mebibytes(line.device_bytes))
    table.add_section()
    total = (sum(line.total_bytes for line in memory), sum(line.device_bytes for line in memory))
    table.add_row("sum", *map(_mebibytes, total))
    return table


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
