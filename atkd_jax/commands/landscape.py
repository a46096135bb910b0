"""`launch.py landscape`: the loss around trained students, as a table, CSV and JSON files and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from atkd_jax.analysis.landscape import Landscape, count_points, look_around, loss_around
from atkd_jax.analysis.landscape_report import sharpness
from atkd_jax.analysis.plots import draw_landscapes
from atkd_jax.commands.held_out import held_out_batches
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.report import refresh_report
from atkd_jax.commands.run_directory import write_json, write_text
from atkd_jax.commands.student import read_trained_student
from atkd_jax.commands.uncertainty import label_of
from atkd_jax.commands.verbs import LandscapeOptions
from atkd_jax.config import Config
from atkd_jax.data import open_source, spaced_examples
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_model, load_tokenizer
from atkd_jax.models import Decoder
from atkd_jax.sharding import make_mesh
from atkd_jax.teachers import load_teacher
from atkd_jax.training.placement import placing_on
from atkd_jax.training.student import student_tokenizer

# The run's own student, where none is named.
_OWN = "student"
Found = dict[str, dict[int, Landscape]]


def run(options: LandscapeOptions) -> None:
    """Looks around each student on the evaluation split; writes landscape.csv, landscape.json and landscape.png."""
    config, console = options.settings, Console()
    names = options.students or (_OWN,)
    out = options.out or config.run_dir
    found: Found = {}
    for name in names:
        label = label_of(name, names)
        if label in found:
            raise InputError(f"command line: --students must be named once each, but {name} came twice.")
        found[label] = _landscapes(config, name if options.students else None, label, console)
    students = {name: [{"seed": seed, **each.to_json()} for seed, each in own.items()] for name, own in found.items()}
    console.print(_table(students))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "landscape.csv", _csv(found))
    facts = {"source": config.data.source, "split": config.evaluation.split, "radius": config.landscape.radius}
    write_json(out / "landscape.json", {**facts, "dimensions": config.landscape.dimensions, "students": students})
    draw_landscapes(found, title=f"{config.data.source}, {config.evaluation.split}", path=out / "landscape.png")
    console.print(f"Kept in {out}/landscape.csv, .json and .png", highlight=False, soft_wrap=True)
    refresh_report(out, console=console)


def _landscapes(config: Config, directory: str | None, label: str, console: Console) -> dict[int, Landscape]:
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    model, tokenizer = _student(config, directory, console, mesh)
    examples = open_source(
        config.data.source, split=config.evaluation.split, cache_dir=config.cache_dir, report=console.print
    )
    held = held_out_batches(config, spaced_examples(examples, config.evaluation.max_examples), tokenizer)
    along = loss_around(model, held, vocab_size=len(tokenizer), mesh=mesh)
    settings = config.landscape
    shape = {"dimensions": settings.dimensions, "points": settings.points}
    each = count_points(**shape)
    found = {}
    with progress_line(console, label, total=each * len(settings.seeds)) as on_point:
        for number, seed in enumerate(settings.seeds):
            found[seed] = look_around(
                along(seed, settings.dimensions),
                **shape,
                radius=settings.radius,
                curvature_step=settings.curvature_step,
                on_point=lambda done, before=number * each: on_point(before + done),
            )
    return found


def _student(config: Config, directory: str | None, console: Console, mesh: jax.sharding.Mesh) -> tuple[Decoder, Any]:
    if directory is not None:
        own = config.teacher.model_copy(update={"model": directory, "dtype": config.training.dtype})
        loaded = load_teacher(config, teacher=own, place=placing_on(mesh), report=console.print)
        return loaded.model, loaded.tokenizer
    teacher = fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=console.print)
    student, _ = read_trained_student(config, teacher_directory=teacher)
    return student, student_tokenizer(config, load_tokenizer(teacher))


def _csv(found: Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "seed", "first", "second", "loss"])
    for name, own in found.items():
        for seed, each in own.items():
            for place, losses in zip(each.places.tolist(), each.losses.tolist(), strict=True):
                rows = [("", losses)] if each.losses.ndim == 1 else zip(each.places.tolist(), losses, strict=True)
                writer.writerows([name, seed, place, second, loss] for second, loss in rows)
    return text.getvalue()


def _table(students: Mapping[str, list[dict[str, Any]]]) -> Table:
    headings, rows = sharpness(students)
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    return table
