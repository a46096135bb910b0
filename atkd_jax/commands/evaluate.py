"""`launch.py evaluate`: teacher, student before and student after on held-out examples, instructions and tasks."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from atkd_jax.commands.evaluate_harness import check_harness, run_harness
from atkd_jax.commands.evaluate_instructions import answer_sets, open_sets
from atkd_jax.commands.evaluate_judge import check_judge, judge_answers
from atkd_jax.commands.held_out import measure_held_out
from atkd_jax.commands.joining import join
from atkd_jax.commands.report import refresh_report
from atkd_jax.commands.run_directory import write_json
from atkd_jax.commands.scorers import evaluate_scorers
from atkd_jax.commands.student import read_trained_student, student_at_start
from atkd_jax.commands.verbs import EvaluateOptions
from atkd_jax.config import Config
from atkd_jax.data import Examples, open_source, spaced_examples
from atkd_jax.evaluation import (
    Report,
    Sample,
    placed_model,
    render_deciles,
    render_table,
    rouge_l,
    sample_answers,
)
from atkd_jax.evaluation.report import TEACHER
from atkd_jax.generation import answer
from atkd_jax.models import Decoder, Pruning
from atkd_jax.sharding import make_mesh, make_meshes
from atkd_jax.teachers import LoadedTeacher, load_teacher
from atkd_jax.training.calibration import first_batches, pruning_of_run
from atkd_jax.training.reading import require_checkpoint
from atkd_jax.training.reffakd import train_on_images
from atkd_jax.training.run_batches import open_batches
from atkd_jax.training.student import student_tokenizer

# Prompts that are answered at once for ROUGE-L.
_ROUGE_ROWS = 16


def run(options: EvaluateOptions) -> None:
    """Does what the options ask for, prints tables, and keeps JSON and answers in the run directory."""
    if options.harness:
        check_harness(options.settings, options.harness)
    if options.judge:
        check_judge(options.settings)
    config = join(options.settings)
    console = Console(quiet=jax.process_index() != 0)
    if config.answers.source is not None:
        evaluate_scorers(config, console=console)
        _refresh(config, console)
        return
    if config.images.source is not None:
        # A finished run's student is read again and measured; of one that was stopped, training goes on first.
        require_checkpoint(config.run_dir / "checkpoints")
        train_on_images(config, console=console)
        _refresh(config, console)
        return
    if options.measure or options.harness:
        subjects = _load(options, config, console)
        if options.measure:
            _measure_and_answer(config, subjects, console)
        if options.harness:
            run_harness(
                config, options.harness, subjects.answering, subjects.tokenizers, mesh=subjects.mesh, console=console
            )
    if options.judge and jax.process_index() == 0:
        judge_answers(config, confirmed=options.yes, console=console)
    _refresh(config, console)


def _refresh(config: Config, console: Console) -> None:
    """Brings these numbers to the page that training wrote."""
    if jax.process_index() == 0:
        refresh_report(config.run_dir, console=console)


class _Subjects(NamedTuple):
    """Who is evaluated: the teacher and the students, on their devices; who of them writes; what each reads with."""

    models: dict[str, Decoder]
    writers: list[str]
    tokenizers: dict[str, Any]
    step: int | None
    mesh: Mesh

    @property
    def answering(self) -> dict[str, Decoder]:
        """The models that answer prompts."""
        return {name: self.models[name] for name in self.writers}

    @property
    def generation_mesh(self) -> Mesh | None:
        """What rows of text are split over."""
        return self.mesh if jax.device_count() > 1 else None


def _load(options: EvaluateOptions, config: Config, console: Console) -> _Subjects:
    teacher = load_teacher(config, report=console.print)
    students, step = _students(config, teacher, with_run=options.run, after_only=options.after_only)
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    models = {name: placed_model(model, mesh) for name, model in {TEACHER: teacher.model, **students}.items()}
    answering = students if options.after_only else models
    tokenizers = dict.fromkeys(models, student_tokenizer(config, teacher.tokenizer)) | {TEACHER: teacher.tokenizer}
    return _Subjects(models, [*answering], tokenizers, step, mesh)


def _measure_and_answer(config: Config, subjects: _Subjects, console: Console) -> None:
    began = time.monotonic()
    examples = spaced_examples(
        open_source(
            config.data.source, split=config.evaluation.split, cache_dir=config.cache_dir, report=console.print
        ),
        config.evaluation.max_examples,
    )
    # Sets that cannot be read are found out before the minutes that measuring takes.
    sets = open_sets(config, report=console.print)
    held_out = measure_held_out(
        config, subjects.models, subjects.tokenizers, examples, mesh=subjects.mesh, console=console
    )
    report = _with_rouge(config, held_out.report, subjects, examples)
    samples = sample_answers(
        subjects.answering,
        [examples[number] for number in range(min(config.evaluation.samples, len(examples)))],
        subjects.tokenizers,
        template=config.data.template,
        max_new_tokens=config.evaluation.sample_tokens,
        mesh=subjects.generation_mesh,
    )
    counts = held_out.counts
    console.print(render_table(report, title=f"{config.data.source}, {config.evaluation.split}"))
    for name in report.scores if report.deciles else ():
        console.print(render_deciles(report, name))
    if counts.truncated or counts.dropped:
        console.print(
            f"{counts.truncated:,} examples lost their end and {counts.dropped:,} were left out: data.overlong"
        )
    _print_samples(console, samples)
    answered = answer_sets(
        config, sets, subjects.answering, subjects.tokenizers, mesh=subjects.generation_mesh, console=console
    )
    facts = {
        "source": config.data.source,
        "split": config.evaluation.split,
        "examples": counts.examples,
        "truncated_examples": counts.truncated,
        "dropped_examples": counts.dropped,
        "checkpoint_step": subjects.step,
        "seconds": round(time.monotonic() - began, 3),
    }
    _keep(config, facts, report, samples, answered, console)


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
    meshes = make_meshes(**config.mesh.model_dump())
    opened = partial(open_batches, config, teacher.tokenizer, meshes.student)
    return pruning_of_run(
        config.student,
        config.run_dir,
        is_begun=with_run,
        teacher=teacher.model,
        batches=partial(first_batches, opened, meshes=meshes, count=config.student.calibration_batches),
        mesh=meshes.teacher,
        report=lambda _: None,
    )[0]


def _with_rouge(config: Config, report: Report, subjects: _Subjects, examples: Examples) -> Report:
    """The report with the models' ROUGE-L on evenly spaced examples, where that is asked for."""
    if not config.evaluation.rouge_examples:
        return report
    chosen = spaced_examples(examples, config.evaluation.rouge_examples)
    picked = [chosen[number] for number in range(len(chosen))]
    scores = dict(report.scores)
    for name, model in subjects.answering.items():
        answers = answer(
            model,
            [example.prompt for example in picked],
            subjects.tokenizers[name],
            template=config.data.template,
            max_new_tokens=config.evaluation.sample_tokens,
            batch_size=min(len(picked), _ROUGE_ROWS),
            mesh=subjects.generation_mesh,
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
    config: Config,
    facts: Mapping[str, object],
    report: Report,
    samples: Sequence[Sample],
    answered: Mapping[str, object],
    console: Console,
) -> None:
    if jax.process_index() != 0:
        return
    config.run_dir.mkdir(parents=True, exist_ok=True)
    path = config.run_dir / "evaluation.json"
    texts = {"samples": [dataclasses.asdict(sample) for sample in samples]}
    sets = {"instruction_sets": answered} if answered else {}
    write_json(path, {**facts, **report.to_json(), **sets, **texts})
    console.print(f"Kept in {path}", highlight=False, soft_wrap=True)
