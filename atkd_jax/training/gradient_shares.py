"""How much of the student's gradient each term of the loss gives, and the easy tokens and the hard ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from atkd_jax.objectives import Gate
from atkd_jax.training.batch_loss import Batch, BatchLoss, Lesson
from atkd_jax.training.metrics import COSINE_PREFIX, NORM_PREFIX, SHARE_PREFIX
from atkd_jax.training.state import TrainState

_GROUPS = ("easy", "hard")
Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]


def make_gradient_shares(
    batch_loss: Callable[..., BatchLoss], *, gate: Gate | None
) -> Callable[..., dict[str, jax.Array]]:
    """Returns `gradient_shares(params, step, teacher_params, batch, *frozen) -> metrics`, to be jitted by the caller.

    The loss is a sum over terms and tokens, so that its gradient g by the student's parameters is the sum of the
    gradients g_k of its terms, and of its easy and its hard tokens. Of each part k it tells `gradient_norm/k` = |g_k|,
    `gradient_cosine/k` between g_k and g, and `gradient_share/k` = <g_k, g> / |g|^2, which is |g_k| cos / |g|. The
    shares of all terms add up to 1, and so do those of easy and hard; one below 0 pulls against the whole. A share or
    a cosine of no gradient is NaN.

    Parts are called by their term (`target_kd`, `diversity_kd`, `cross_entropy`, or a divergence's own name), by their
    group (`easy`, `hard`), and by both. Forward KL at temperature 1 is told as its parts TKD and UNC * DKD.

    Each part is a pass of its own through the student, one after the other; two gradients exist at a time. Clipping
    and the optimizer come later and are not seen.

    Args:
        batch_loss: Of `make_batch_loss`, with `knows_targets` where there is a gate.
        gate: Tells hard tokens; None tells terms alone.
    """

    def gradient_shares(
        params: Any, step: jax.Array, teacher_params: Any, batch: Batch, *frozen: Any
    ) -> dict[str, jax.Array]:
        of_batch = batch_loss(params, step, teacher_params, batch, *frozen)
        lessons = [_without_metrics(_in_parts(lesson, of_batch, gate)) for lesson in of_batch.lessons]
        hard = [None if gate is None else gate(of_batch.signal.target_log_probs, each.mask) for each in lessons]
        parts = _parts(lessons, has_groups=gate is not None)

        def add_one(whole: Any, part: tuple[jax.Array, jax.Array]) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            chosen, is_whole = part
            own = of_batch.value_and_gradient(params, _chosen(lessons, hard, chosen))[1]
            whole = jax.tree.map(lambda kept, new: jnp.where(is_whole, new, kept), whole, own)
            return whole, (jnp.asarray(optax.tree.norm(own)), jnp.asarray(optax.tree.vdot(own, whole)))

        is_whole = np.arange(len(parts)) == 0
        choices = np.stack([part.chosen for part in parts])
        zeros = jax.tree.map(jnp.zeros_like, params)
        _, (norms, products) = jax.lax.scan(add_one, zeros, (jnp.asarray(choices), jnp.asarray(is_whole)))
        found = {}
        for number, part in enumerate(parts[1:], start=1):
            found[SHARE_PREFIX + part.name] = products[number] / products[0]
            found[COSINE_PREFIX + part.name] = products[number] / (norms[number] * norms[0])
            found[NORM_PREFIX + part.name] = norms[number]
        return found

    return gradient_shares


def with_gradient_shares(
    step: Step, measure: Callable[[TrainState, Any], dict[str, jax.Array]], *, every_steps: int, start: int
) -> Step:
    """Returns a step whose metrics, every so often, have the shares of its own gradient.

    Args:
        step: What it does otherwise.
        measure: The state before the step and its batch -> the shares.
        every_steps: Steps between measurements.
        start: Steps that were taken already.
    """
    number = start

    def measured(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        nonlocal number
        number += 1
        # The step takes the state's memory, so that this comes first.
        shares = measure(state, batch) if number % every_steps == 0 else {}
        state, values = step(state, batch)
        return state, values | shares

    return measured


class _Part(NamedTuple):
    """A part of the loss: which (term, group) belong to it, 0 or 1, float32 `[terms of all lessons, 2]`."""

    name: str
    chosen: np.ndarray


def _in_parts(lesson: Lesson, of_batch: BatchLoss, gate: Gate | None) -> Lesson:
    """The lesson with TKD and UNC * DKD in place of the forward KL that is their sum, where UNC is known."""
    divergence = lesson.objective.divergence
    is_sum = (divergence.name, divergence.temperature) == ("forward_kl", 1.0)
    weights = lesson.weighting.loss
    if gate is None or not is_sum or of_batch.signal.sparse is not None or "divergence" not in weights:
        return lesson
    uncertainty = -jnp.expm1(of_batch.signal.target_log_probs)
    whole = weights["divergence"]
    split = {"target_kd": whole, "diversity_kd": whole * uncertainty}
    loss = {name: weight for name, weight in weights.items() if name != "divergence"} | split
    return lesson._replace(weighting=lesson.weighting._replace(loss=loss))


def _without_metrics(lesson: Lesson) -> Lesson:
    return lesson._replace(weighting=lesson.weighting._replace(metrics={}))


def _parts(lessons: list[Lesson], *, has_groups: bool) -> list[_Part]:
    """The whole first, then its terms, its groups, and both at once."""
    terms = [
        lesson.prefix + (lesson.objective.divergence.name if term == "divergence" else term)
        for lesson in lessons
        for term in lesson.weighting.loss
    ]
    ones = np.ones((len(terms), 2), np.float32)
    of_terms = {name: ones * np.eye(len(terms), dtype=np.float32)[number][:, None] for number, name in enumerate(terms)}
    of_groups = {name: ones * np.eye(2, dtype=np.float32)[number] for number, name in enumerate(_GROUPS)}
    parts = {"": ones} | of_terms
    if has_groups:
        parts |= of_groups
        parts |= {
            f"{term}_{group}": of_terms[term] * of_groups[group]
            for term in (terms if len(terms) > 1 else ())
            for group in _GROUPS
        }
    return [_Part(name, chosen) for name, chosen in parts.items()]


def _chosen(lessons: list[Lesson], hard: list[jax.Array | None], chosen: jax.Array) -> list[Lesson]:
    """The lessons with the weights of one part."""
    found, place = [], 0
    for lesson, is_hard in zip(lessons, hard, strict=True):
        loss = {}
        for term, weights in lesson.weighting.loss.items():
            own = chosen[place, 0] if is_hard is None else jnp.where(is_hard, chosen[place, 1], chosen[place, 0])
            loss[term] = weights * own
            place += 1
        found.append(lesson._replace(weighting=lesson.weighting._replace(loss=loss)))
    return found
