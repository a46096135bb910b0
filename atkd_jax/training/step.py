"""One optimizer step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.decoder import Decoder
from atkd_jax.objectives import Heads, Objective, Tokens, Weighting, head_loss, next_token_targets, paired_states
from atkd_jax.sharding import constrain
from atkd_jax.teachers import CachedTeacher, TeacherSignal, teacher_signal
from atkd_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
_INPUTS = ("tokens", "positions", "segment_ids")
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    *,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder] | CachedTeacher,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    vocab_size: int,
    teacher_vocab_size: int | None = None,
    microbatches: int = 1,
    chunk_tokens: int = 512,
    mesh: Mesh | None = None,
    teacher_mesh: Mesh | None = None,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """Returns `train_step(state, teacher_params, batch, *frozen) -> (state, metrics)`, to be jitted by the caller.

    `frozen` is what of the student is not trained: nothing, or what `models.split_trained` gives.

    The teacher runs over all of the step's micro-batches first; the gate then sees the whole batch; then the student
    runs. Loss and gradient are those of the batch in one piece, whatever `microbatches` and `chunk_tokens` are. A step
    whose loss or gradient is not finite leaves weights and optimizer as they were and counts as skipped.

    Args:
        student: The student's structure; its weights are in the state.
        teacher: The teacher's structure, or what is known of its cache. Then the batch has its arrays, nothing of it
            is computed, and `teacher_params` is a dict, of its `head` where hidden states were kept, and empty else.
        objective: What is minimised.
        optimizer: What turns gradients into updates.
        vocab_size: The tokenizer's number of ids; columns of the heads beyond it are padding.
        teacher_vocab_size: That of the teacher's tokenizer, where it has one of its own and the batch holds its tokens.
        microbatches: How many equal parts the rows are worked through in.
        chunk_tokens: How many counted tokens go through the heads at once on a device, see `head_loss`.
        mesh: Where rows and parameters are split over devices; None for one device.
        teacher_mesh: The same devices as the teacher's parameters are split over them; as `mesh` if None.
        schedule: The optimizer's learning rate, which is then among the metrics.
    """

    def train_step(state: TrainState, teacher_params: Any, batch: Batch, *frozen: Any) -> tuple[TrainState, Metrics]:
        parts, targets, mask, is_written = _microbatches(batch, microbatches)
        pairs = _pairs(batch, microbatches) if objective.pairs_tokens else None
        asked = partial(teacher_signal, targets=targets, mask=mask, vocab_size=vocab_size)
        if isinstance(teacher, CachedTeacher):
            signal = teacher.signal({name: _split(batch[name], microbatches) for name in teacher.names})
            teacher_head, teacher_softcap = teacher_params.get("head"), teacher.softcap
        else:
            own_mesh, wanted = teacher_mesh or mesh, objective.needs_teacher_probability
            inputs = parts if pairs is None else pairs.inputs
            signal = asked(teacher, teacher_params, batch=inputs, with_target_log_probs=wanted, mesh=own_mesh)
            teaching = nnx.merge(teacher, teacher_params)
            teacher_head, teacher_softcap = teaching.head_matrix(), teaching.logit_softcap
        signal = _with_rows_split(signal if pairs is None else pairs.beside_the_student(signal), mesh)
        known = [signal.target_log_probs, *([] if pairs is None else [pairs.paired])]
        if objective.needs_student_probability:
            own = asked(student, state.params, batch=parts, mesh=mesh, with_target_log_probs=True)
            known.append(own.target_log_probs)
        about = {"segment_ids": parts["segment_ids"], "step": state.step}
        lessons = _lessons(objective, known, mask, is_written, about if objective.needs_examples else {})

        def share_of_loss(params: Any, part: tuple[Batch, list[Tokens]]) -> tuple[jax.Array, Metrics]:
            inputs, tokens_of_lessons = part
            model = nnx.merge(student, params, *frozen)
            hidden = model.hidden_states(**inputs, mesh=mesh)
            softcaps = model.logit_softcap, teacher_softcap
            heads = Heads(model.head_matrix(), teacher_head, vocab_size, softcaps, teacher_vocab_size)

            def learn(lesson: _Lesson, tokens: Tokens) -> tuple[jax.Array, Metrics]:
                own = {"student_hidden": hidden, "heads": heads, "tokens": tokens}
                return head_loss(lesson.objective, **own, chunk_tokens=chunk_tokens, mesh=mesh)

            return _added_up(lessons, list(map(learn, lessons, tokens_of_lessons)))

        stacked = parts, [lesson.tokens(signal, targets) for lesson in lessons]
        (loss, metrics), gradient = _summed_over_parts(share_of_loss, state.params, stacked, microbatches)
        counts = {"counted_tokens": jnp.sum(mask), "tokens": jnp.sum(parts["segment_ids"] > 0)}
        metrics |= lessons[0].weighting.scalars | {"loss": loss} | counts
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(state.step - state.skipped_steps))
        return apply_gradient(state, loss, gradient, metrics, optimizer)

    return train_step


class _Lesson(NamedTuple):
    """Which tokens are learned from by which objective."""

    objective: Objective
    mask: jax.Array
    weighting: Weighting
    prefix: str

    def tokens(self, signal: TeacherSignal, targets: jax.Array) -> Tokens:
        weighting = self.weighting._replace(scalars={})
        return Tokens(signal.hidden, targets, self.mask, weighting, signal.sparse)


def _added_up(lessons: list[_Lesson], shares: list[tuple[jax.Array, Metrics]]) -> tuple[jax.Array, Metrics]:
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
) -> list[_Lesson]:
    if objective.on_data is None or is_written is None:
        return [_Lesson(objective, mask, objective.weighting(known[0], mask, *known[1:], **about), "")]
    written, rest = mask & is_written, mask & ~is_written
    on_data = objective.on_data
    return [
        _Lesson(objective, written, objective.weighting(known[0], written, *known[1:]), ""),
        _Lesson(on_data, rest, on_data.weighting(known[0], rest), "on_data/"),
    ]


def _with_rows_split(signal: TeacherSignal, mesh: Mesh | None) -> TeacherSignal:
    """Returns the signal, told to lie as the student's rows do."""

    def told(array: jax.Array) -> jax.Array:
        return constrain(array, mesh, None, "rows", "length", *([None] * (array.ndim - 3)))

    return jax.tree.map(told, signal)


def _split(array: jax.Array, microbatches: int) -> jax.Array:
    """Returns `[microbatches, rows, ...]`.

    Neighbouring rows go to different parts, so that every device has a share of each and no row moves.
    """
    return array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1)


def _microbatches(batch: Batch, microbatches: int) -> tuple[Batch, jax.Array, jax.Array, jax.Array | None]:
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    split = partial(_split, microbatches=microbatches)
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
    split = partial(_split, microbatches=microbatches)
    inputs = {name: split(batch[f"teacher_{name}"]) for name in _INPUTS}
    return _Pairs(inputs, *map(split, paired_states(batch["teacher_index"])))


def _summed_over_parts(
    share_of_loss: Callable[[Any, Any], tuple[jax.Array, Metrics]], params: Any, parts: Any, microbatches: int
) -> tuple[tuple[jax.Array, Metrics], Any]:
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


def apply_gradient(
    state: TrainState, loss: jax.Array, gradient: Any, metrics: Metrics, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics with what it told; what is not finite is skipped."""
    gradient_norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

    def update() -> tuple[Any, Any]:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        return optax.apply_updates(state.params, updates), optimizer_state

    params, optimizer_state = jax.lax.cond(finite, update, lambda: (state.params, state.optimizer_state))
    skipped = jnp.where(finite, 0, 1)
    new_state = state._replace(
        step=state.step + 1,
        params=params,
        optimizer_state=optimizer_state,
        skipped_steps=state.skipped_steps + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
    )
    return new_state, metrics | {
        "gradient_norm": gradient_norm,
        "skipped_steps": new_state.skipped_steps,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }
