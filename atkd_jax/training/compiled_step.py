"""The train step of a config as one jitted function: the same for a run and for a plan of it."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder
from atkd_jax.objectives import make_gate, make_objective
from atkd_jax.sharding import SEQUENCE_AXIS, Meshes, replicated, row_sharding, rows_divisor
from atkd_jax.teachers import CachedTeacher
from atkd_jax.training.batch_loss import make_batch_loss
from atkd_jax.training.gradient_shares import make_gradient_shares
from atkd_jax.training.optimizer import learning_rate_schedule
from atkd_jax.training.step import make_train_step

# A product with a gathered weight is one product. By default a TPU's compiler cuts it into one for each device's part
# of the weight, with sums in between that it rounds: by its own estimate 1.4 times the time of OPT-6.7B on v5e:4x4.
_TPU_OPTIONS: dict[str, str | bool] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
_INPUTS = ("tokens", "positions", "segment_ids")
_PAIRS = (*(f"teacher_{name}" for name in _INPUTS), "teacher_index")


def jitted_train_step(
    config: Config,
    *,
    meshes: Meshes,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder] | CachedTeacher,
    optimizer: optax.GradientTransformation,
    vocab_size: int,
    teacher_vocab_size: int | None = None,
    state: Any,
    teacher_params: Any,
    frozen: tuple[Any, ...] = (),
) -> Callable[..., Any]:
    """Returns `step(state, teacher_params, batch, *frozen)`, jitted; the state's memory is given to the new state.

    Args:
        config: The run.
        meshes: How the devices are arranged for each model.
        student: The student's structure.
        teacher: The teacher's structure, or what is known of its cache.
        optimizer: The config's.
        vocab_size: The tokenizer's number of ids.
        teacher_vocab_size: That of the teacher's, where it has one of its own.
        state: The tree of shardings of a state.
        teacher_params: The tree of shardings of the teacher's parameters.
        frozen: That of what stays of the student, see `models.split_trained`.
    """
    step = make_train_step(
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        vocab_size=vocab_size,
        teacher_vocab_size=teacher_vocab_size,
        **_of_loss(config, meshes),
        schedule=learning_rate_schedule(config.optimizer, steps=config.training.steps),
    )
    # A state that was read and one that was computed lie alike, so that both go through one program.
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state, teacher_params, _batch_shardings(config, meshes, teacher), *frozen),
        out_shardings=(state, replicated(meshes.student)),
        compiler_options=_compiler_options(meshes),
    )


def jitted_gradient_shares(
    config: Config,
    *,
    meshes: Meshes,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder] | CachedTeacher,
    vocab_size: int,
    teacher_vocab_size: int | None = None,
    state: Any,
    teacher_params: Any,
    frozen: tuple[Any, ...] = (),
) -> Callable[..., dict[str, jax.Array]]:
    """Returns `shares(params, step, teacher_params, batch, *frozen)`, jitted. Arguments as in `jitted_train_step`."""
    gate = make_gate(config.objective)
    batch_loss = make_batch_loss(
        student=student,
        teacher=teacher,
        vocab_size=vocab_size,
        teacher_vocab_size=teacher_vocab_size,
        **_of_loss(config, meshes),
        knows_targets=gate is not None,
    )
    batch = _batch_shardings(config, meshes, teacher)
    return jax.jit(
        make_gradient_shares(batch_loss, gate=gate),
        in_shardings=(state.params, state.step, teacher_params, batch, *frozen),
        out_shardings=replicated(meshes.student),
        compiler_options=_compiler_options(meshes),
    )


def _of_loss(config: Config, meshes: Meshes) -> dict[str, Any]:
    """What the config says of the loss: a step and the shares of its gradient are of one and the same."""
    objective = make_objective(
        config.objective,
        teacher_weight=config.rollout.teacher_weight if config.rollout.author == "mixed" else 0.0,
        steps=config.training.steps,
    )
    return {
        "objective": objective,
        "microbatches": config.training.microbatches,
        "chunk_tokens": config.training.chunk_tokens,
        "mesh": meshes.student,
        "teacher_mesh": meshes.teacher,
    }


def _batch_shardings(config: Config, meshes: Meshes, teacher: Any) -> dict[str, Any]:
    arrays = (*batch_arrays(config), *(teacher.names if isinstance(teacher, CachedTeacher) else ()))
    return dict.fromkeys(arrays, row_sharding(meshes.student))


def _compiler_options(meshes: Meshes) -> dict[str, str | bool] | None:
    return _TPU_OPTIONS if meshes.student.devices.flat[0].platform == "tpu" else None


def one_at_a_time(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step that waits for its end where CPUs stand in for several devices.

    Two programs with collectives in flight at once can starve each other there of the client's threads, for good.
    """
    if jax.default_backend() != "cpu" or jax.device_count() == 1:
        return step
    return lambda *arguments: jax.block_until_ready(step(*arguments))


def batch_arrays(config: Config) -> tuple[str, ...]:
    """Returns the names of the arrays `[rows, length]` that a step takes."""
    written = ("is_written",) if config.rollout.is_during_training else ()
    return (*_INPUTS, "loss_mask", *written, *(_PAIRS if config.objective.pairs_tokens else ()))


def require_even_batch(config: Config, meshes: Meshes) -> None:
    """Raises InputError where the rows or their tokens do not fall into equal parts for the devices."""
    batch_size, microbatches = config.training.batch_size, config.training.microbatches
    for mesh in meshes:
        parts = rows_divisor(mesh) * microbatches
        if batch_size % parts:
            raise InputError(
                f"training.batch_size={batch_size} must be a multiple of {parts}: {rows_divisor(mesh)} devices share "
                f"the rows, times training.microbatches={microbatches}"
            )
    square = meshes.student.shape[SEQUENCE_AXIS] ** 2
    if config.data.sequence_length % square:
        raise InputError(
            f"data.sequence_length={config.data.sequence_length} must be a multiple of {square}, the square of "
            "mesh.sequence, so that the devices that share a row have equal parts of its attention"
        )
