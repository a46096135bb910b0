"""The models of a run, split and placed for its step, and the state that training begins with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.config import Config
from atkd_jax.models import Decoder, DecoderConfig, logical_axes, split_trained
from atkd_jax.sharding import parameter_shardings, spread
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.start import Start
from atkd_jax.training.state import TrainState
from atkd_jax.training.teaching import Teaching
from atkd_jax.training.vocabularies import Vocabularies, vocabularies


class RunModels(NamedTuple):
    """What the step of a run closes over, or is given beside its state.

    Attributes:
        teacher_graph: The teacher, or what stands in its place, without its arrays.
        teacher_params: Its arrays, on its mesh.
        student_graph: The student without its arrays.
        student_frozen: Those of its arrays that are not trained, on its mesh.
        vocabularies: How many ids each has.
        student_config: Of the student.
        teacher_config: Of the teacher.
    """

    teacher_graph: Any
    teacher_params: Any
    student_graph: nnx.GraphDef[Decoder]
    student_frozen: tuple[Any, ...]
    vocabularies: Vocabularies
    student_config: DecoderConfig
    teacher_config: DecoderConfig


def prepare_models(
    config: Config, mesh: Mesh, teaching: Teaching, start: Start, tokenizer: Any, *, report: Callable[[str], None]
) -> tuple[RunModels, TrainState, optax.GradientTransformation]:
    """Returns the models, the state before the first step, and the optimizer that belongs to it.

    Args:
        config: The run.
        mesh: The student's.
        teaching: Who teaches; its arrays are on the teacher's mesh.
        start: The student before the first step.
        tokenizer: The student's.
        report: Is told, in a sentence, how vocabularies of two sizes are treated.

    Raises:
        InputError: if the vocabularies do not fit together.
    """
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    teacher_graph, teacher_params = teaching.split(config)
    student_graph, student_params, frozen = split_trained(start.student)
    state = place_state(student_params, mesh=mesh, optimizer=optimizer, seed=config.seed)
    frozen = tuple(spread(each, parameter_shardings(mesh, logical_axes(each), each)) for each in frozen)
    shapes = {"student": start.student.config, "teacher": teaching.loaded.model.config}
    own, sentence = vocabularies(tokenizer, teaching.loaded.tokenizer, **shapes)
    if sentence is not None:
        report(sentence)
    models = RunModels(teacher_graph, teacher_params, student_graph, frozen, own, *shapes.values())
    return models, state, optimizer
