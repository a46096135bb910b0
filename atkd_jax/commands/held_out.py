"""The held-out examples as an evaluation's models read them, and what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh
from rich.console import Console

from atkd_jax.commands.progress_line import progress_line
from atkd_jax.config import Config
from atkd_jax.data import Counts, EvaluationBatches, Examples, evaluation_batches, shared_text
from atkd_jax.evaluation import OWN_TOKENS, Report, measure, measure_apart
from atkd_jax.evaluation.report import TEACHER
from atkd_jax.models import Decoder
from atkd_jax.sharding import make_mesh, row_share


class HeldOut(NamedTuple):
    """What was measured, and of what."""

    report: Report
    counts: Counts


def held_out_batches(config: Config, examples: Examples, tokenizer: Any) -> EvaluationBatches:
    """Returns this process's rows of the evaluation's batches."""
    share = row_share(make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor))
    return evaluation_batches(
        examples,
        tokenizer,
        template=config.data.template,
        sequence_length=config.data.sequence_length,
        batch_size=config.evaluation.batch_size,
        packing=config.data.packing,
        overlong=config.data.overlong,
        process_index=share.index,
        process_count=share.count,
    )


def measure_held_out(
    config: Config,
    models: Mapping[str, Decoder],
    tokenizers: Mapping[str, Any],
    examples: Examples,
    *,
    mesh: Mesh,
    console: Console,
) -> HeldOut:
    """Measures the models on the examples.

    Args:
        config: The run.
        models: By name, the teacher first.
        tokenizers: Each model's own, by its name.
        examples: All that were asked for.
        mesh: Where the models lie.
        console: Is told how far it is.
    """
    if config.objective.pairs_tokens:
        return _measure_apart(config, models, tokenizers, examples, mesh=mesh, console=console)
    batches = held_out_batches(config, examples, tokenizers[TEACHER])
    held = list(batches)
    students = {name: model for name, model in models.items() if name != TEACHER}
    with progress_line(console, "evaluating", total=len(held)) as on_batch:
        vocab_size = len(tokenizers[TEACHER])
        report = measure(models[TEACHER], students, held, vocab_size=vocab_size, mesh=mesh, on_batch=on_batch)
    return HeldOut(report, batches.counts)


def _measure_apart(
    config: Config,
    models: Mapping[str, Decoder],
    tokenizers: Mapping[str, Any],
    examples: Examples,
    *,
    mesh: Mesh,
    console: Console,
) -> HeldOut:
    distinct = {id(tokenizer): tokenizer for tokenizer in tokenizers.values()}
    text = shared_text(
        examples,
        list(distinct.values()),
        template=config.data.template,
        sequence_length=config.data.sequence_length,
        overlong=config.data.overlong,
    )
    console.print(OWN_TOKENS, highlight=False)
    batches = {own: held_out_batches(config, text.examples, tokenizer) for own, tokenizer in distinct.items()}
    held = {own: list(each) for own, each in batches.items()}
    of_models = {name: held[id(tokenizers[name])] for name in models}
    with progress_line(console, "evaluating", total=sum(map(len, of_models.values()))) as on_batch:
        report = measure_apart(
            models,
            of_models,
            vocab_sizes={name: len(tokenizers[name]) for name in models},
            response_bytes=text.response_bytes,
            mesh=mesh,
            on_batch=on_batch,
        )
    last = batches[id(tokenizers[list(models)[-1]])]
    return HeldOut(report, last.counts + Counts(dropped=text.left_out))
