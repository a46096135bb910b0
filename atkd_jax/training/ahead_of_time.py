"""A run's train step, compiled for devices that are not here, and what it holds and costs on each of them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, DecoderConfig, logical_axes
from atkd_jax.sharding import TOKENS, Meshes, make_meshes, parameter_shardings, row_sharding
from atkd_jax.sharding.chips import Chip
from atkd_jax.sharding.compiled_cost import StepCost, step_cost
from atkd_jax.sharding.compiled_text import Instruction, Program, Run, parse_program, runs, trip_count
from atkd_jax.training.compiled_step import batch_arrays, jitted_train_step, require_even_batch
from atkd_jax.training.instance_threshold import Threshold, with_threshold
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import bytes_on_device, state_shardings
from atkd_jax.training.state import initial_state
from atkd_jax.training.teaching import teaching_model

# Tokens that the teacher's pass for the gate takes through its head at once, at least.
_TEACHER_CHUNK = 1024


class Shapes(NamedTuple):
    """The models of a run: what is known of them without their weights."""

    teacher: DecoderConfig
    student: DecoderConfig
    vocab_size: int
    teacher_vocab_size: int | None = None


class Held(NamedTuple):
    """Bytes on one chip before a step, from shapes and shardings."""

    teacher: float
    student: float
    optimizer: float
    batch: float


class Memory(NamedTuple):
    """Bytes on one chip during a step, by the compiler's analysis.

    Attributes:
        arguments: what is held between steps, with the padding of layouts.
        temporaries: everything else, the gradient and the activations included.
        activations: of it, what the student's layers keep for the backward pass.
        code: of the program.
    """

    arguments: float
    temporaries: float
    activations: float
    code: float

    @property
    def total(self) -> float:
        """All of it; the new state takes the old one's place."""
        return self.arguments + self.temporaries + self.code


class Ahead(NamedTuple):
    """A compiled step.

    Attributes:
        held: between steps.
        memory: None where the compiler found too little memory.
        cost: likewise.
        text: of the compiled program.
        needed_bytes: of memory, on one chip.
        compile_seconds: that it took.
    """

    held: Held
    memory: Memory | None
    cost: StepCost | None
    text: str
    needed_bytes: float
    compile_seconds: float


def compile_ahead(config: Config, *, shapes: Shapes, chip: Chip, devices: Sequence[Any]) -> Ahead:
    """Compiles the step that `train` would run, for a topology.

    Args:
        config: The run.
        shapes: Its models.
        chip: Of the topology.
        devices: All of the topology's.

    Raises:
        InputError: if the mesh or the batch does not fit the devices.
    """
    meshes = make_meshes(**config.mesh.model_dump(), devices=devices)
    require_even_batch(config, meshes)
    step, arguments, held = _abstract_step(config, shapes, meshes)
    began = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed_bytes(str(error))
        if needed is None:
            raise
        return Ahead(held, None, None, "", needed, time.monotonic() - began)
    seconds = time.monotonic() - began
    text = compiled.as_text()
    program, analysis = parse_program(text), compiled.memory_analysis()
    turns = _turns_of_heads(config, meshes)
    memory = Memory(
        arguments=float(analysis.argument_size_in_bytes),
        temporaries=float(analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        activations=kept_activations(program, turns=turns),
        code=float(analysis.generated_code_size_in_bytes),
    )
    named = {"": meshes.student, "teacher's ": meshes.teacher}
    flat = list(meshes.student.devices.flat)
    cost = step_cost(program, chip=chip, devices=flat, meshes=named, turns=turns)
    return Ahead(held, memory, cost, text, memory.total, seconds)


def held_by(config: Config, *, shapes: Shapes, meshes: Meshes) -> Held:
    """Returns what a chip holds between steps; nothing is compiled."""
    return _abstract_step(config, shapes, meshes)[2]


def _abstract_step(config: Config, shapes: Shapes, meshes: Meshes) -> tuple[Any, tuple[Any, ...], Held]:
    """Returns the jitted step, the shapes of its arguments, and what they take on one device."""
    if config.teacher.cache is not None:
        raise InputError(
            f"plan compiles the step of a live teacher, but teacher.cache={config.teacher.cache} stands for it; leave "
            "teacher.cache out to plan with the live one."
        )
    loaded = _abstract_model(shapes.teacher, config.teacher.dtype, config.teacher.dtype, "none")
    loaded.attend_by(config.training.attention)
    teacher, teacher_params = nnx.split(nnx.eval_shape(partial(teaching_model, config), loaded))
    own = _abstract_model(shapes.student, config.training.dtype, "float32", config.training.remat)
    own.attend_by(config.training.attention)
    student, params = nnx.split(own)
    if config.objective.instance_weighting.is_on:
        config = with_threshold(config, Threshold(0.0, 0))  # A constant of the program, whatever its value.
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    state = jax.eval_shape(lambda params: initial_state(params, optimizer=optimizer, seed=0), params)
    of_state = state_shardings(params, mesh=meshes.student, optimizer=optimizer)
    of_teacher = parameter_shardings(meshes.teacher, logical_axes(teacher_params), teacher_params)
    step = jitted_train_step(
        config,
        meshes=meshes,
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        vocab_size=shapes.vocab_size,
        teacher_vocab_size=shapes.teacher_vocab_size,
        state=of_state,
        teacher_params=of_teacher,
    )
    rows = (config.training.batch_size, config.data.sequence_length)
    types = {name: jnp.bool_ if name in ("loss_mask", "is_written") else jnp.int32 for name in batch_arrays(config)}
    batch = {name: jax.ShapeDtypeStruct(rows, dtype) for name, dtype in types.items()}
    of_batch = dict.fromkeys(batch, row_sharding(meshes.student))
    held = Held(
        teacher=bytes_on_device(teacher_params, of_teacher),
        student=bytes_on_device(params, of_state.params),
        optimizer=bytes_on_device(state.optimizer_state, of_state.optimizer_state),
        batch=bytes_on_device(batch, of_batch),
    )
    return step, (state, teacher_params, batch), held


def _abstract_model(shape: DecoderConfig, dtype: str, param_dtype: str, remat: Any) -> Decoder:
    kinds = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype), "remat": remat}
    return nnx.eval_shape(lambda: Decoder(shape, rngs=nnx.Rngs(0), **kinds))


def _needed_bytes(message: str) -> float | None:
    """Returns how much memory the compiler says that it would need; None where that is not its complaint."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    used = re.search(r"Used ([\d.]+)([KMGT]) of", message) or re.search(r"temporaries \(([\d.]+)([KMGT])\)", message)
    return float(used[1]) * 2.0 ** (10 * "?KMGT".index(used[2])) if used else math.inf


def _turns_of_heads(config: Config, meshes: Meshes):
    """Returns how often the loops over chunks of tokens turn where every token counts: the text holds no bound."""
    tokens = config.training.batch_size * config.data.sequence_length // config.training.microbatches

    def turns(loop: Instruction) -> int:
        is_student = "jvp" in loop.op_name
        mesh = meshes.student if is_student else meshes.teacher
        chunk = config.training.chunk_tokens if is_student else _TEACHER_CHUNK
        on_device = tokens // math.prod(mesh.shape[axis] for axis in TOKENS)
        return -(-on_device // chunk)

    return turns


def kept_activations(program: Program, *, turns: Any) -> float:
    """Returns the bytes that the student's loop over layers leaves for the backward pass, on one chip.

    They are the loop's stacks: arrays with a place for each of its turns that its body writes.
    """
    loops = [run for run in runs(program, turns=turns) if _is_forward_loop(run)]
    return max((_stacks_of(program, run.instruction) for run in loops), default=0.0)


def _is_forward_loop(run: Run) -> bool:
    path = run.instruction.op_name
    return run.instruction.opcode == "while" and "jvp" in path and "transpose" not in path and "shard_map" not in path


def _stacks_of(program: Program, loop: Instruction) -> float:
    body = program.computations[loop.called("body") or ""]
    root = next(each for each in body.values() if each.is_root)
    parameters = {each.name for each in body.values() if each.opcode == "parameter"}
    # What a turn hands on as it came is an element of the parameter.
    written = [not parameters & {*body[name].operands} for name in root.operands]
    layers = trip_count(program, loop)
    pairs = zip(loop.arrays, written, strict=True)
    return sum(array.num_bytes for array, is_written in pairs if is_written and array.dims[:1] == (layers,))
