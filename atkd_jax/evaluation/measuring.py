"""The host's part of an evaluation: batches through the metric step, sums in float64, means at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.evaluation.metric_step import make_metric_step
from atkd_jax.evaluation.report import TEACHER, Report
from atkd_jax.evaluation.token_sums import TokenSums
from atkd_jax.models import Decoder, logical_axes
from atkd_jax.sharding import (
    parameter_shardings,
    replicated,
    row_sharding,
    row_share,
    rows_divisor,
    shard_batch,
    spread,
)

Batch = Mapping[str, np.ndarray]


def measure(
    teacher: Decoder,
    students: Mapping[str, Decoder],
    batches: Iterable[Batch],
    *,
    vocab_size: int | None = None,
    mesh: Mesh | None = None,
    chunk_tokens: int = 256,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Report:
    """Measures the teacher and every student on the counted tokens of the batches, in one pass of the teacher.

    A token counts where the batch's `loss_mask` says so and it has a predecessor in its own example. The mean over
    tokens is that of the data set, whichever way it is cut into batches: per-token float32 values are added up in
    float64, over all tokens and by the teacher's uncertainty (`token_sums`), in constant memory.

    Args:
        teacher: The model that the students are compared with.
        students: By the name that the report shall give them. May be empty.
        batches: Of `atkd_jax.data.evaluation_batches`; tokens, positions, segment_ids int32 and loss_mask bool,
            `[rows, length]`, all of one shape.
        vocab_size: Both heads are cut to so many tokens, the tokenizer's number; the heads' own size if None.
        mesh: Parameters and rows are spread over these devices; left where they are if None. On several processes each
            gives its own rows of every batch and gets the whole report.
        chunk_tokens: Positions that go through the heads at once on a device; bounds the memory for logits.
        on_batch: Is called with the number of batches done after each.

    Returns:
        The report; its first scores are the teacher's, whose divergence from itself is 0.

    Raises:
        InputError: if no token counts.
        ValueError: if a student is named like the teacher, or the heads have different sizes and `vocab_size` is None,
            or it is larger than a head.
    """
    models = _named(teacher, students)
    splits = [nnx.split(model) for model in models.values()]
    graphs = [graph for graph, _ in splits]
    params = [placed(own, mesh) for _, own in splits]
    step = compiled_step(graphs, mesh, vocab_size=_vocab_size(models, vocab_size), chunk_tokens=chunk_tokens)
    sums = TokenSums(list(models))
    for done, batch in enumerate(batches, start=1):
        metrics, counted = step(params[0], params[1:], placed_rows(batch, mesh))
        sums.add(np.asarray(jax.device_get(metrics))[..., : int(counted)])
        on_batch(done)
    if sums.counted_tokens == 0:
        raise InputError(
            "evaluation: no token of the split counts; its responses are empty or cut off by data.overlong"
        )
    return sums.report()


def compiled_step(graphs: list[Any], mesh: Mesh | None, *, vocab_size: int, chunk_tokens: int) -> Callable[..., Any]:
    """Returns the metric step of a teacher's structure, the first, and of students', compiled for a mesh."""
    teacher, students = graphs[0], graphs[1:]
    if mesh is None:
        return jax.jit(make_metric_step(teacher, students, vocab_size=vocab_size, chunk_tokens=chunk_tokens))
    by_rows = row_sharding(mesh)
    step = make_metric_step(
        teacher,
        students,
        vocab_size=vocab_size,
        chunk_tokens=chunk_tokens * rows_divisor(mesh),
        spread=lambda chunk: jax.lax.with_sharding_constraint(chunk, by_rows),
    )
    return jax.jit(step, out_shardings=replicated(mesh))


def _named(teacher: Decoder, students: Mapping[str, Decoder]) -> dict[str, Decoder]:
    if TEACHER in students:
        raise ValueError(f"measure: a student is named {TEACHER!r}, which is the teacher's name; choose another")
    return {TEACHER: teacher, **students}


def _vocab_size(models: Mapping[str, Decoder], wanted: int | None) -> int:
    sizes = {name: model.config.vocab_size for name, model in models.items()}
    if wanted is None and len(set(sizes.values())) > 1:
        raise ValueError(f"measure: heads must be of one size, got {sizes}; give vocab_size, the tokenizer's number")
    if wanted is not None and wanted > min(sizes.values()):
        raise ValueError(f"measure: vocab_size={wanted} must be at most the smallest head, got {sizes}")
    return min(sizes.values()) if wanted is None else wanted


def placed(params: Any, mesh: Mesh | None) -> Any:
    """Returns parameters spread over the mesh, as they are where there is none."""
    if mesh is None:
        return params
    return spread(params, parameter_shardings(mesh, logical_axes(params), params))


def placed_model(model: Decoder, mesh: Mesh | None) -> Decoder:
    """Returns a model with its parameters spread over the mesh."""
    graphdef, params = nnx.split(model)
    return nnx.merge(graphdef, placed(params, mesh))


def placed_rows(batch: Batch, mesh: Mesh | None) -> dict[str, Any]:
    """Returns the rows on the mesh, with empty ones behind them so that the devices share them evenly."""
    if mesh is None:
        return dict(batch)
    # Rows of zeros are padding: segment 0, and no token counts.
    own_share = rows_divisor(mesh) // row_share(mesh).count
    missing = -len(batch["tokens"]) % own_share
    return shard_batch(mesh, {name: np.pad(array, ((0, missing), (0, 0))) for name, array in batch.items()})
