"""The page of a study: what it claims and what was seen, its tables and pictures, and what each cell's inputs were."""

from __future__ import annotations

import json
from collections.abc import Sequence

from atkd_jax.analysis.claims import RULE
from atkd_jax.analysis.curves import draw_curves
from atkd_jax.analysis.landscape_report import landscape_blocks
from atkd_jax.analysis.page import Block, Fold, Note, Picture, Pictures, Section, Table, render_page
from atkd_jax.analysis.run_files import RunFiles, points_of
from atkd_jax.analysis.run_report import sample_blocks
from atkd_jax.analysis.study_directory import StudyDirectory, StudyRun
from atkd_jax.analysis.tables import (
    COMPARISON_NOTE,
    MEASURES,
    SPREAD_NOTE,
    claims_table,
    comparison_table,
    result_table,
)
from atkd_jax.analysis.uncertainty_report import uncertainty_blocks

_CURVES = ("loss", "cross_entropy", "validation/cross_entropy", "gradient_norm")
# Beyond so many lines a picture of curves shows nothing.
_MOST_LINES = 12
# Where things lie differs from cell to cell and says nothing.
_NO_SETTINGS = {"run_dir", "seed"}


def study_report(study: StudyDirectory) -> str:
    """Returns the HTML page of a study."""
    by_cell: dict[str, StudyRun] = {}
    for run in study.runs:
        by_cell.setdefault(run.key.rpartition("/")[0], run)
    first = list(by_cell.values())
    shown = [run.files for run in first if run.files is not None and not run.is_prepared]
    sections = [
        Section("Claims", _claims(study)),
        Section("Results", _results(study)),
        Section("Pictures", _pictures(study)),
        Section(
            "The teachers' uncertainty",
            uncertainty_blocks(study.name, study.uncertainty, study.pictures.get("uncertainty.png")),
        ),
        Section("Loss landscape", landscape_blocks(study.name, study.landscape, study.pictures.get("landscape.png"))),
        Section("Training", _training(shown)),
        Section("Samples", sample_blocks(shown)),
        Section("Every run", _every_run(study)),
        Section("Inputs of the cells", _inputs(study, first)),
        Section("Environment", _environment(study)),
    ]
    subtitle = f"{len(study.summaries)} cells, {len(study.runs)} runs"
    return render_page(study.name, sections, subtitle=subtitle)


def _claims(study: StudyDirectory) -> list[Block]:
    if not study.verdicts:
        return []
    rows = [[each.name, each.sentence, each.verdict] for each in study.verdicts]
    sentences = Table(["claim", "in words", "verdict"], rows, word_columns=3)
    return [sentences, Table(*claims_table(study.verdicts), word_columns=3), Note(RULE)]


def _results(study: StudyDirectory) -> list[Block]:
    blocks: list[Block] = [Table(*result_table(study.summaries)), Note(SPREAD_NOTE)]
    compared = comparison_table(study.summaries)
    if compared.rows:
        blocks += [Table(*compared, caption="Less the reference", word_columns=2), Note(COMPARISON_NOTE)]
    if study.failed:
        blocks.append(Table(["failed", "why"], [[key, why] for key, why in study.failed.items()], word_columns=2))
    return blocks


def _pictures(study: StudyDirectory) -> list[Block]:
    own = {name: png for name, png in study.pictures.items() if name not in ("landscape.png", "uncertainty.png")}
    return (
        [Pictures([Picture(png, name.removesuffix(".png").replace("_", " ")) for name, png in own.items()])]
        if own
        else []
    )


def _training(shown: Sequence[RunFiles]) -> list[Block]:
    pictures = []
    for name in _CURVES:
        own = {run.name: points_of(run, name) for run in shown if any(name in line for line in run.metrics)}
        if not own or len(own) > _MOST_LINES:
            continue
        values = [value for _, line in own.values() for value in line if value is not None]
        is_logarithmic = name == "loss" and min(values, default=0) > 0
        svg = draw_curves(own, title=name.replace("_", " "), x="step", is_logarithmic=is_logarithmic)
        pictures.append(Picture(svg, f"{name} by step"))
    note = Note("The first seed of each cell; NAME/SEED/report.html has all curves of a run.")
    return [Pictures(pictures), note] if pictures else []


def _every_run(study: StudyDirectory) -> list[Block]:
    present = [name for name in MEASURES if any(name in run.measures for run in study.runs)]
    rows = [
        [
            run.key,
            *(_measure(run.measures.get(name), MEASURES[name][1]) for name in present),
            f"{run.seconds:,.0f}",
        ]
        for run in study.runs
    ]
    return [Table(["run", *(MEASURES[name][0] for name in present), "seconds"], rows)] if rows else []


def _inputs(study: StudyDirectory, first: Sequence[StudyRun]) -> list[Block]:
    configs = {run.key: run.files.config for run in first if run.files is not None}
    names = dict.fromkeys(name for config in configs.values() for name in config if name not in _NO_SETTINGS)
    differing = [name for name in names if len({str(config.get(name)) for config in configs.values()}) > 1]
    rows = [[key, *(_shown(config.get(name)) for name in differing)] for key, config in configs.items()]
    blocks: list[Block] = [Fold("The study's file", study.text)] if study.text else []
    if rows:
        blocks.append(
            Table(["cell", *differing], rows, caption="What differs between the cells", word_columns=len(differing) + 1)
        )
    if study.runs:
        prints = [[run.key, run.inputs or "-", ", ".join(run.needs) or "-"] for run in study.runs]
        blocks.append(Table(["run", "fingerprint of its inputs", "starts from"], prints, word_columns=3))
    folds = [Fold(f"{run.key}/config.yaml", run.files.config_text) for run in first if run.files is not None]
    return [*blocks, *folds]


def _environment(study: StudyDirectory) -> list[Block]:
    seen: dict[str, list[str]] = {}
    for run in study.runs:
        if run.files is not None and run.files.environment:
            # Every run has a command line of its own.
            own = {name: value for name, value in run.files.environment.items() if name != "command_line"}
            seen.setdefault(json.dumps(own, indent=2, ensure_ascii=False), []).append(run.key)
    return [Fold(f"{len(keys)} runs: {_few(keys)}", text) for text, keys in seen.items()]


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")


def _measure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
