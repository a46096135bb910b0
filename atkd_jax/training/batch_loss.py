"""The loss of an optimizer step's batch as a function of the student's weights, with its weights already known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.decoder import Decoder
from atkd_jax.objectives import Heads, Objective, Tokens, Weighting, head_loss, next_token_targets, paired_states
from atkd_jax.sharding import constrain
from atkd_jax.teachers import CachedTeacher, TeacherSignal, teacher_signal

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
_INPUTS = ("tokens", "positions", "segment_ids")


class Lesson(NamedTuple):
    """Which tokens are learned from by which objective.

    Attributes:
        objective: The objective.
        mask: bool `[microbatches, rows, length]`.
        weighting: Of its terms, over the whole batch.
        prefix: Of its metrics' names.
    """

    objective: Objective
    mask: jax.Array
    weighting: Weighting
    prefix: str

    def tokens(self, signal: TeacherSignal, targets: jax.Array) -> Tokens:
        """Returns what `head_loss` takes, `[microbatches, rows, length]`."""
        weighting = self.weighting._replace(scalars={})
        return Tokens(signal.hidden, targets, self.mask, weighting, signal.sparse)


class BatchLoss(NamedTuple):
    """The loss of one batch, after the teacher's pass and the gate.

    Attributes:
        lessons: What is learned; the loss is their sum.
        signal: What the teacher says, `[microbatches, rows, length, ...]`.
        mask: bool `[microbatches, rows, length]`, where a token counts.
        is_token: bool, the same shape, where there is no padding.
        value_and_gradient: `(params, lessons) -> ((loss, metrics), gradient)`, of these lessons or of ones with other
            weights.
    """

    lessons: list[Lesson]
    signal: TeacherSignal
    mask: jax.Array
    is_token: jax.Array
    value_and_gradient: Callable[[Any, list[Lesson]], tuple[tuple[jax.Array, Metrics], Any]]


def make_batch_loss(
    *,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder] | CachedTeacher,
    objective: Objective,
    vocab_size: int,
    teacher_vocab_size: int | None = None,
    microbatches: int = 1,
    chunk_tokens: int = 512,
    mesh: Mesh | None = None,
    teacher_mesh: Mesh | None = None,
    knows_targets: bool = False,
) -> Callable[..., BatchLoss]:
    """Returns `batch_loss(params, step, teacher_params, batch, *frozen) -> BatchLoss`.

    Args:
        student: As in `make_train_step`, like what follows.
        teacher: The teacher's structure, or what is known of its cache.
        objective: What is minimised.
        vocab_size: The tokenizer's number of ids.
        teacher_vocab_size: That of the teacher's tokenizer, where it has one of its own.
        microbatches: How many equal parts the rows are worked through in.
        chunk_tokens: How many counted tokens go through the heads at once on a device.
        mesh: Where rows and parameters are split over devices.
        teacher_mesh: The same devices as the teacher's parameters are split over them.
        knows_targets: Whether the signal has the teacher's log p(target) also where the objective does not read it.
    """

    def batch_loss(params: Any, step: jax.Array, teacher_params: Any, batch: Batch, *frozen: Any) -> BatchLoss:
        parts, targets, mask, is_written = _microbatches(batch, microbatches)
        pairs = _pairs(batch, microbatches) if objective.pairs_tokens else None
        asked = partial(teacher_signal, targets=targets, mask=mask, vocab_size=vocab_size)
        if isinstance(teacher, CachedTeacher):
            signal = teacher.signal({name: split_rows(batch[name], microbatches) for name in teacher.names})
            teacher_head, teacher_softcap = teacher_params.get("head"), teacher.softcap
        else:
            own_mesh, wanted = teacher_mesh or mesh, objective.needs_teacher_probability or knows_targets
            inputs = parts if pairs is None else pairs.inputs
            signal = asked(teacher, teacher_params, batch=inputs, with_target_log_probs=wanted, mesh=own_mesh)
            teaching = nnx.merge(teacher, teacher_params)
            teacher_head, teacher_softcap = teaching.head_matrix(), teaching.logit_softcap
        signal = _with_rows_split(signal if pairs is None else pairs.beside_the_student(signal), mesh)
        known = [signal.target_log_probs, *([] if pairs is None else [pairs.paired])]
        if objective.needs_student_probability:
            own = asked(student, params, *frozen, batch=parts, mesh=mesh, with_target_log_probs=True)
            known.append(own.target_log_probs)
        about = {"segment_ids": parts["segment_ids"], "step": step}
        lessons = _lessons(objective, known, mask, is_written, about if objective.needs_examples else {})

        def share_of_loss(
            params: Any, part: tuple[Batch, list[Tokens]], lessons: list[Lesson]
        ) -> tuple[jax.Array, Metrics]:
            inputs, tokens_of_lessons = part
            model = nnx.merge(student, params, *frozen)
            hidden = model.hidden_states(**inputs, mesh=mesh)
            softcaps = model.logit_softcap, teacher_softcap
            heads = Heads(model.head_matrix(), teacher_head, vocab_size, softcaps, teacher_vocab_size)

            def learn(lesson: Lesson, tokens: Tokens) -> tuple[jax.Array, Metrics]:
                own = {"student_hidden": hidden, "heads": heads, "tokens": tokens}
                return head_loss(lesson.objective, **own, chunk_tokens=chunk_tokens, mesh=mesh)

            return _added_up(lessons, list(map(learn, lessons, tokens_of_lessons)))

        def value_and_gradient(params: Any, lessons: list[Lesson]) -> tuple[tuple[jax.Array, Metrics], Any]:
            stacked = parts, [lesson.tokens(signal, targets) for lesson in lessons]
            return summed_over_parts(partial(share_of_loss, lessons=lessons), params, stacked, microbatches)

        return BatchLoss(lessons, signal, mask, parts["segment_ids"] > 0, value_and_gradient)

    return batch_loss


def _added_up(lessons: list[Lesson], shares: list[tuple[jax.Array, Metrics]]) -> tuple[jax.Array, Metrics]:
    metrics: Metrics = {}
    for lesson, (_, own) in zip(lessons, shares, strict=True):
        metrics |= {lesson.prefix + name: value for name, value in own.items()}
    return jnp.sum(jnp.stack([loss for loss, _ in shares])), metrics


def _lessons(
    objective: Objective,
    known: list[jax.Array],
    mask: jax.Array,
    is_written: jax.Array | None,
    about: dict[str, jax.Array],
) -> list[Lesson]:
    if objective.on_data is None or is_written is None:
        return [Lesson(objective, mask, objective.weighting(known[0], mask, *known[1:], **about), "")]
    written, rest = mask & is_written, mask & ~is_written
    on_data = objective.on_data
    return [
        Lesson(objective, written, objective.weighting(known[0], written, *known[1:]), ""),
        Lesson(on_data, rest, on_data.weighting(known[0], rest), "on_data/"),
    ]


def _with_rows_split(signal: TeacherSignal, mesh: Mesh | None) -> TeacherSignal:
    """Returns the signal, told to lie as the student's rows do."""

    def told(array: jax.Array) -> jax.Array:
        return constrain(array, mesh, None, "rows", "length", *([None] * (array.ndim - 3)))

    return jax.tree.map(told, signal)


def split_rows(array: jax.Array, microbatches: int) -> jax.Array:
    """Returns `[microbatches, rows, ...]`.

    Neighbouring rows go to different parts, so that every device has a share of each and no row moves.
    """
    return array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1)


def _microbatches(batch: Batch, microbatches: int) -> tuple[Batch, jax.Array, jax.Array, jax.Array | None]:
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    split = partial(split_rows, microbatches=microbatches)
    inputs = {name: split(batch[name]) for name in _INPUTS}
    is_written = split(batch["is_written"]) if "is_written" in batch else None
    return inputs, split(targets), split(mask), is_written


class _Pairs(NamedTuple):
    """A batch in the teacher's tokens `[microbatches, rows, length]`, and which of its states go with which token."""

    inputs: Batch
    states: jax.Array
    paired: jax.Array

    def beside_the_student(self, signal: TeacherSignal) -> TeacherSignal:
        """Returns the signal with the states that go with the student's, at their places."""
        assert signal.hidden is not None  # a live teacher's
        return signal._replace(hidden=jnp.take_along_axis(signal.hidden, self.states[..., None], axis=-2))


def _pairs(batch: Batch, microbatches: int) -> _Pairs:
    split = partial(split_rows, microbatches=microbatches)
    inputs = {name: split(batch[f"teacher_{name}"]) for name in _INPUTS}
    return _Pairs(inputs, *map(split, paired_states(batch["teacher_index"])))


def summed_over_parts(
    share_of_loss: Callable[[Any, Any], tuple[jax.Array, Metrics]], params: Any, parts: Any, microbatches: int
) -> tuple[tuple[jax.Array, Metrics], Any]:
    """Returns loss, metrics and gradient, each added up over the parts `[microbatches, ...]`, one after the other."""
    value_and_gradient = jax.value_and_grad(share_of_loss, has_aux=True)
    first = jax.tree.map(lambda array: array[0], parts)
    if microbatches == 1:
        return value_and_gradient(params, first)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(value_and_gradient, params, first)
    )

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value_and_gradient(params, part)), None

    return jax.lax.scan(add, zeros, parts)[0]
