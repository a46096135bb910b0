"""The page of one run, or of several beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atkd_jax.analysis.curves import draw_curves
from atkd_jax.analysis.gradient_report import gradient_blocks, is_of_gradient_share
from atkd_jax.analysis.labelled_report import labelled_blocks, subject_of, untaught_notes
from atkd_jax.analysis.landscape_report import landscape_blocks
from atkd_jax.analysis.page import Block, Fold, Note, Picture, Pictures, Section, Side, Table, render_page
from atkd_jax.analysis.run_files import RunFiles, points_of
from atkd_jax.analysis.uncertainty_report import uncertainty_blocks

# Curves that most readers look at first; the others follow by name.
_FIRST_CURVES = ("loss", "cross_entropy", "forward_kl", "gradient_norm", "learning_rate", "tokens_per_second")
_LOGARITHMIC = {"loss", "cross_entropy", "gradient_norm"}
_MEASURES = {
    "perplexity": ("perplexity", "{:,.2f}"),
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "forward_kl": ("forward KL to the teacher", "{:.4f}"),
    "reverse_kl": ("reverse KL to the teacher", "{:.4f}"),
    "top1_agreement": ("top-1 agreement", "{:.1%}"),
    "top1_accuracy": ("top-1 accuracy", "{:.1%}"),
    "expected_calibration_error": ("calibration error", "{:.4f}"),
}
_DECILE_CURVES = ("perplexity", "forward_kl", "reverse_kl", "top1_agreement", "expected_calibration_error")


def run_report(runs: Sequence[RunFiles]) -> str:
    """Returns the HTML page of the runs; of one, or to compare several."""
    config = runs[0].config
    subtitle = subject_of(config) if len(runs) == 1 else f"{len(runs)} runs beside each other"
    sections = [
        Section("Held-out data", _evaluation(runs)),
        Section("By the teacher's uncertainty", _deciles(runs)),
        Section("Training", _training(runs)),
        Section("Shares of the gradient", gradient_blocks(runs)),
        Section(
            "Loss landscape",
            [block for run in runs for block in landscape_blocks(run.name, run.landscape, run.landscape_picture)],
        ),
        Section(
            "The teachers' uncertainty",
            [block for run in runs for block in uncertainty_blocks(run.name, run.uncertainty, run.uncertainty_picture)],
        ),
        Section("Instruction sets", _instruction_sets(runs)),
        Section("Judge", _judge(runs)),
        Section("lm-evaluation-harness", _harness(runs)),
        Section("Samples", sample_blocks(runs)),
        Section("Config", _config(runs)),
        Section("Environment", _environment(runs)),
    ]
    return render_page(" | ".join(run.name for run in runs), sections, subtitle=subtitle)


def _labelled(runs: Sequence[RunFiles], model: str, run: RunFiles) -> str:
    return model if len(runs) == 1 else f"{run.name}: {model}"


def _formatted(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _evaluation(runs: Sequence[RunFiles]) -> list[Block]:
    columns = {
        _labelled(runs, model, run): scores
        for run in runs
        for model, scores in run.evaluation.get("models", {}).items()
    }
    labelled = labelled_blocks(runs)
    if not columns:
        return labelled or [Note("Nothing was measured on held-out data yet: launch.py evaluate does it.")]
    rows = [
        [title, *(_formatted(scores.get(measure), form) for scores in columns.values())]
        for measure, (title, form) in _MEASURES.items()
        if measure != "bits_per_byte" or any(measure in scores for scores in columns.values())
    ]
    notes = [
        Note(
            f"{run.name}: {run.evaluation.get('counted_tokens', 0):,} response tokens of "
            f"{run.evaluation.get('examples', 0):,} examples of {run.evaluation.get('source')}, "
            f"{run.evaluation.get('split')}; checkpoint of step {run.evaluation.get('checkpoint_step')}."
            f" {run.evaluation.get('note', '')}".rstrip()
        )
        for run in runs
        if run.evaluation
    ]
    return [Table(["", *columns], rows), *notes, *untaught_notes(runs), *labelled]


def _deciles(runs: Sequence[RunFiles]) -> list[Block]:
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        deciles = run.evaluation.get("unc_deciles", [])
        for model in deciles[0]["models"] if deciles else []:
            lines[_labelled(runs, model, run)] = [decile["models"][model] for decile in deciles]
    if not lines:
        return []
    places = list(range(1, 11))
    pictures = [
        Picture(
            draw_curves(
                {name: (places, [scores.get(measure) for scores in own]) for name, own in lines.items()},
                title=_MEASURES[measure][0],
                x="decile of the teacher's UNC, surest first",
                is_logarithmic=measure == "perplexity",
            ),
            f"{measure} by decile of UNC",
        )
        for measure in _DECILE_CURVES
    ]
    tables = [
        Table(["decile", *map(str, places)], [_decile_row(own, measure) for measure in _DECILE_CURVES], caption=name)
        for name, own in lines.items()
    ]
    return [Pictures(pictures), *tables]


def _decile_row(deciles: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    title, form = _MEASURES[measure]
    return [title, *(_formatted(scores.get(measure), form) for scores in deciles)]


def _training(runs: Sequence[RunFiles]) -> list[Block]:
    names = {name for run in runs for line in run.metrics for name in line} - {"step"}
    names = {name for name in names if not is_of_gradient_share(name)}
    ordered = [name for name in _FIRST_CURVES if name in names] + sorted(names - set(_FIRST_CURVES))
    pictures = []
    for name in ordered:
        lines = {run.name: points_of(run, name) for run in runs if any(name in line for line in run.metrics)}
        values = [value for _, own in lines.values() for value in own if value is not None]
        if len(set(values)) < 2:
            continue  # What never changes needs no picture.
        is_logarithmic = name in _LOGARITHMIC and min(values) > 0
        svg = draw_curves(lines, title=name.replace("_", " "), x="step", is_logarithmic=is_logarithmic)
        pictures.append(Picture(svg, f"{name} by step"))
    last = [[run.name, *(_number(run.metrics[-1].get(name)) for name in ordered)] for run in runs if run.metrics]
    table = Table(["last step", *(name.replace("_", " ") for name in ordered)], last)
    return [Pictures(pictures), table] if last else []


def _instruction_sets(runs: Sequence[RunFiles]) -> list[Block]:
    tables: dict[str, list[list[str]]] = {}
    for run in runs:
        for name, found in run.evaluation.get("instruction_sets", {}).items():
            for model, scores in found["models"].items():
                for kind in ("greedy", "sampled"):
                    if kind in scores:
                        cells = [_spread(scores[kind][measure]) for measure in _SET_MEASURES]
                        tables.setdefault(name, []).append([f"{_labelled(runs, model, run)}, {kind}", *cells])
    headings = ["", *(measure.replace("_", "-") for measure in _SET_MEASURES)]
    return [Table(headings, rows, caption=name) for name, rows in tables.items()]


_SET_MEASURES = ("rouge_l", "distinct_1", "distinct_2", "distinct_4", "mean_tokens", "closed")


def _judge(runs: Sequence[RunFiles]) -> list[Block]:
    rows = [
        [
            f"{line['set']}, {_labelled(runs, line['model'], run)}, {line['decoding']}",
            *(_formatted(line[name], "{:.2f}") for name in ("answer_mean", "reference_mean", "ratio_percent")),
            *(str(line[name]) for name in ("scored", "unreadable", "unanswered")),
        ]
        for run in runs
        for line in run.judge.get("results", [])
    ]
    headings = ["", "answers", "references", "ratio of sums, %", "scored", "unreadable", "unanswered"]
    judges = sorted({str(run.judge["judge"]) for run in runs if run.judge})
    return [Table(headings, rows, caption=f"Scores from 1 to 10 by {', '.join(judges)}")] if rows else []


def _harness(runs: Sequence[RunFiles]) -> list[Block]:
    columns = {
        _labelled(runs, model, run): tasks for run in runs for model, tasks in run.harness.get("models", {}).items()
    }
    keys = dict.fromkeys(
        (task, measure)
        for tasks in columns.values()
        for task, measures in tasks.items()
        for measure in measures
        if measure not in ("num_fewshot", "sample_len") and "stderr" not in measure
    )
    rows = [
        [f"{task}, {measure}", *(_number(tasks.get(task, {}).get(measure)) for tasks in columns.values())]
        for task, measure in keys
    ]
    return [Table(["", *columns], rows)] if rows else []


def sample_blocks(runs: Sequence[RunFiles]) -> list[Block]:
    """Returns the runs' answers to each prompt side by side."""
    shown: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for sample in run.evaluation.get("samples", []):
            texts = shown.setdefault(
                sample["prompt"], [("prompt", sample["prompt"]), ("response in the data", sample["response"])]
            )
            texts += [(_labelled(runs, model, run), text) for model, text in sample["answers"].items()]
    return [Side(texts) for texts in shown.values()]


def _config(runs: Sequence[RunFiles]) -> list[Block]:
    folds: list[Block] = [Fold(f"{run.name}/config.yaml", run.config_text) for run in runs if run.config_text]
    if len(runs) == 1:
        return folds
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [
        [key, *(_shown(run.config.get(key)) for run in runs)]
        for key in keys
        if len({_shown(run.config.get(key)) for run in runs}) > 1
    ]
    table = Table(["", *(run.name for run in runs)], rows, caption="What differs")
    return [table, *folds] if rows else folds


def _environment(runs: Sequence[RunFiles]) -> list[Block]:
    return [
        Fold(f"{run.name}: {run.environment.get('platform', '')}", json.dumps(run.environment, indent=2))
        for run in runs
        if run.environment
    ]


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _spread(value: Any) -> str:
    if not isinstance(value, dict):
        return _number(value)
    deviation = value.get("std")
    return _number(value["mean"]) + (f" ± {_number(deviation)}" if deviation is not None else "")
