"""`launch.py evaluate`: teacher, student before and student after on held-out examples, in one table."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from atkd_jax.commands.joining import join
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.run_directory import write_json
from atkd_jax.commands.scorers import evaluate_scorers
from atkd_jax.commands.student import read_trained_student, student_at_start
from atkd_jax.commands.verbs import EvaluateOptions
from atkd_jax.config import Config
from atkd_jax.data import EvaluationBatches, Examples, evaluation_batches, open_source, spaced_examples
from atkd_jax.evaluation import Report, Sample, answer, measure, render_table, rouge_l, sample_answers
from atkd_jax.models import Decoder, Pruning
from atkd_jax.sharding import make_mesh, make_meshes, row_share
from atkd_jax.teachers import LoadedTeacher, load_teacher
from atkd_jax.training.calibration import first_batches, measured_pruning, read_pruning
from atkd_jax.training.run import open_batches

# Prompts that are answered at once for ROUGE-L.
_ROUGE_ROWS = 16


def run(options: EvaluateOptions) -> None:
    """Measures, prints the table and the samples, and keeps both in the run directory as evaluation.json."""
    config = join(options.settings)
    console = Console(quiet=jax.process_index() != 0)
    if config.answers.source is not None:
        evaluate_scorers(config, console=console)
        return
    began = time.monotonic()
    teacher = load_teacher(config.teacher, cache_dir=config.cache_dir, report=console.print)
    students, step = _students(config, teacher, with_run=options.run, after_only=options.after_only)
    examples = spaced_examples(
        open_source(
            config.data.source, split=config.evaluation.split, cache_dir=config.cache_dir, report=console.print
        ),
        config.evaluation.max_examples,
    )
    batches = held_out_batches(config, examples, teacher.tokenizer)
    report = _measure(config, teacher, students, batches, console)
    answering = students if options.after_only else {"teacher": teacher.model, **students}
    report = _with_rouge(config, report, answering, examples, teacher.tokenizer)
    samples = sample_answers(
        answering,
        [examples[number] for number in range(min(config.evaluation.samples, len(examples)))],
        teacher.tokenizer,
        template=config.data.template,
        max_new_tokens=config.evaluation.sample_tokens,
    )
    counts = batches.counts
    console.print(render_table(report, title=f"{config.data.source}, {config.evaluation.split}"))
    if counts.truncated or counts.dropped:
        console.print(
            f"{counts.truncated:,} examples lost their end and {counts.dropped:,} were left out: data.overlong"
        )
    _print_samples(console, samples)
    facts = {
        "source": config.data.source,
        "split": config.evaluation.split,
        "examples": counts.examples,
        "truncated_examples": counts.truncated,
        "dropped_examples": counts.dropped,
        "checkpoint_step": step,
        "seconds": round(time.monotonic() - began, 3),
    }
    _keep(config, facts, report, samples, console)


def _students(
    config: Config, teacher: LoadedTeacher, *, with_run: bool, after_only: bool
) -> tuple[dict[str, Decoder], int | None]:
    """The student before training, and the trained one with the step that it has reached."""
    # A run that is not there is found out first, before the minutes that the rest takes.
    trained = read_trained_student(config, teacher_directory=teacher.directory) if with_run else None
    if trained is not None and after_only:
        return {"student after": trained[0]}, trained[1]
    before = student_at_start(config, teacher.model, pruning=_pruning(config, teacher, with_run=with_run))
    if trained is None:
        return {"student before": before}, None
    after, step = trained
    return {"student before": before, "student after": after}, step


def _pruning(config: Config, teacher: LoadedTeacher, *, with_run: bool) -> Pruning | None:
    if not config.student.needs_measuring:
        return None
    if with_run:
        return read_pruning(config.run_dir)
    meshes = make_meshes(**config.mesh.model_dump())
    opened = partial(open_batches, config, teacher.tokenizer, meshes.student)
    batches = first_batches(opened, meshes=meshes, count=config.student.calibration_batches)
    found = measured_pruning(
        config.student, teacher=teacher.model, batches=batches, mesh=meshes.teacher, report=lambda _: None
    )
    return found[0]


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


def _measure(
    config: Config,
    teacher: LoadedTeacher,
    students: Mapping[str, Decoder],
    batches: EvaluationBatches,
    console: Console,
) -> Report:
    held = list(batches)
    with progress_line(console, "evaluating", total=len(held)) as on_batch:
        return measure(
            teacher.model,
            students,
            held,
            vocab_size=len(teacher.tokenizer),
            mesh=make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor),
            on_batch=on_batch,
        )


def _with_rouge(
    config: Config, report: Report, models: Mapping[str, Decoder], examples: Examples, tokenizer: Any
) -> Report:
    """The report with the models' ROUGE-L on evenly spaced examples, where that is asked for."""
    if not config.evaluation.rouge_examples:
        return report
    chosen = spaced_examples(examples, config.evaluation.rouge_examples)
    picked = [chosen[number] for number in range(len(chosen))]
    scores = dict(report.scores)
    for name, model in models.items():
        answers = answer(
            model,
            [example.prompt for example in picked],
            tokenizer,
            template=config.data.template,
            max_new_tokens=config.evaluation.sample_tokens,
            batch_size=min(len(picked), _ROUGE_ROWS),
        )
        found = rouge_l(answers, [example.response for example in picked])
        scores[name] = dataclasses.replace(scores[name], rouge_l=found)
    return dataclasses.replace(report, scores=scores)


def _print_samples(console: Console, samples: Sequence[Sample]) -> None:
    def show(title: str, text: str) -> None:
        console.print(Panel(Text(text or "(nothing)"), title=title, title_align="left"))

    for sample in samples:
        show("prompt", sample.prompt)
        show("response in the data", sample.response)
        for name, text in sample.answers.items():
            show(name, text)


def _keep(
    config: Config, facts: Mapping[str, object], report: Report, samples: Sequence[Sample], console: Console
) -> None:
    if jax.process_index() != 0:
        return
    config.run_dir.mkdir(parents=True, exist_ok=True)
    path = config.run_dir / "evaluation.json"
    texts = {"samples": [dataclasses.asdict(sample) for sample in samples]}
    write_json(path, {**facts, **report.to_json(), **texts})
    console.print(f"Kept in {path}", highlight=False, soft_wrap=True)
