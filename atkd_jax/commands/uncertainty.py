"""`launch.py uncertainty`: how sure teachers are of held-out tokens, as a table, a CSV file and a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from atkd_jax.analysis.plots import draw_densities
from atkd_jax.analysis.uncertainty import density, describe, token_uncertainties
from atkd_jax.commands.held_out import held_out_batches
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.report import refresh_report
from atkd_jax.commands.run_directory import write_text
from atkd_jax.commands.verbs import UncertaintyOptions
from atkd_jax.config import Config
from atkd_jax.data import open_source, spaced_examples
from atkd_jax.sharding import make_mesh
from atkd_jax.teachers import load_teacher
from atkd_jax.training.placement import placing_on


def run(options: UncertaintyOptions) -> None:
    """Measures each teacher on the evaluation split and writes uncertainty.csv and uncertainty.png."""
    config, console = options.settings, Console()
    names = options.teachers or (config.teacher.model,)
    out = options.out or config.run_dir
    facts, curves = {}, {}
    for name in names:
        values = _values(config, name, console)
        label = label_of(name, names)
        facts[label], curves[label] = describe(values), density(values)
    console.print(_table(facts))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "uncertainty.csv", _csv(facts))
    title = f"{config.data.source}, {config.evaluation.split}"
    draw_densities(curves, title=title, x="UNC = 1 - p(target)", path=out / "uncertainty.png")
    console.print(f"Kept in {out}/uncertainty.csv and .png", highlight=False, soft_wrap=True)
    refresh_report(out, console=console)


def _values(config: Config, name: str, console: Console):
    own = config.teacher.model_copy(update={"model": name})
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    teacher = load_teacher(config, teacher=own, place=placing_on(mesh), report=console.print)
    examples = open_source(
        config.data.source, split=config.evaluation.split, cache_dir=config.cache_dir, report=console.print
    )
    chosen = spaced_examples(examples, config.evaluation.max_examples)
    held = list(held_out_batches(config, chosen, teacher.tokenizer))
    with progress_line(console, name, total=len(held)) as on_batch:
        return token_uncertainties(teacher.model, held, vocab_size=len(teacher.tokenizer), mesh=mesh, on_batch=on_batch)


def label_of(name: str, names: tuple[str, ...]) -> str:
    """Returns the part of a path that tells it from the others, as `teacher-1m` of `runs/.../teacher-1m/0/student`."""
    parts = Path(name).parts
    shared = [set(Path(other).parts) for other in names if other != name]
    own = [part for part in parts if not all(part in other for other in shared)] if shared else parts[-1:]
    return "/".join(own) or name


def _csv(facts: dict[str, dict[str, float]]) -> str:
    text = io.StringIO()
    columns = list(next(iter(facts.values())))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["teacher", *columns])
    for name, own in facts.items():
        writer.writerow([name, *(own[column] for column in columns)])
    return text.getvalue()


def _table(facts: dict[str, dict[str, float]]) -> Table:
    table = Table("UNC", title_justify="left")
    for name in facts:
        table.add_column(name, justify="right")
    for row in next(iter(facts.values())):
        table.add_row(row, *(f"{own[row]:,.0f}" if row == "tokens" else f"{own[row]:.4f}" for own in facts.values()))
    return table
