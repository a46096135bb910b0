"""What a report says of runs whose teacher is no language model, or whose student is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atkd_jax.analysis.page import Block, Note, Table
from atkd_jax.analysis.run_files import RunFiles

_SCORES = {
    "accuracy": ("accuracy", "{:.1%}"),
    "macro_f1": ("macro F1", "{:.3f}"),
    "kappa": ("quadratic weighted kappa", "{:.3f}"),
    "parameters": ("parameters", "{:,}"),
    "milliseconds": ("ms an answer", "{:.2f}"),
}


def subject_of(config: Mapping[str, Any]) -> str:
    """Returns what a run learns, from whom and of what data, by its config's values by dotted name."""
    teacher = config.get("teacher.model", "?")
    if images := config.get("images.source"):
        has_soft_labels = config.get("images.weight", 1) > 0
        return f"classes of {images}, {'soft labels from an autoencoder' if has_soft_labels else 'labels alone'}"
    if answers := config.get("answers.source"):
        has_teacher = config.get("answers.teacher_weight", 1) > 0
        return f"scores of {answers}, {f'{teacher} as the fine-tuned teacher' if has_teacher else 'scores alone'}"
    if config.get("objective.token_similarity.scale") is not None:
        teacher = f"how alike the embeddings of {teacher} are"
    return f"{config.get('objective.name', '?')}, {teacher} on {config.get('data.source', '?')}"


def untaught_notes(runs: Sequence[RunFiles]) -> list[Block]:
    """Returns a note for each run that was measured beside a model that did not teach it."""
    return [
        Note(
            f"{run.name}: the teacher's layers never ran in training, whose soft labels are from its embeddings alone; "
            "here the whole model is what the student is compared with."
        )
        for run in runs
        if run.evaluation and run.config.get("objective.token_similarity.scale") is not None
    ]


def labelled_blocks(runs: Sequence[RunFiles]) -> list[Block]:
    """Returns the tables of scorers and of image classes; none where no run has any."""
    blocks: list[Block] = []
    columns = {
        name if len(runs) == 1 else f"{run.name}: {name}": scores
        for run in runs
        for name, scores in run.scores.items()
        if isinstance(scores, dict)
    }
    if columns:
        rows = [[title, *(form.format(own[key]) for own in columns.values())] for key, (title, form) in _SCORES.items()]
        blocks.append(Table(["", *columns], rows))
    blocks += [
        Note(f"{run.name}: {run.scores['answers']:,} answers of {run.scores['source']}, {run.scores['split']}.")
        for run in runs
        if run.scores
    ]
    rows = [
        [
            run.name,
            f"{own['accuracy']:.1%}",
            f"{own['examples']:,}",
            f"{own['source']}, {own['split']}",
            str(own["step"]),
        ]
        for run in runs
        if (own := run.accuracy)
    ]
    return [*blocks, Table(["", "right", "images", "of", "step"], rows)] if rows else blocks
