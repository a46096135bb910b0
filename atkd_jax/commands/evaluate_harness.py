"""The part of `launch.py evaluate` that runs tasks of lm-evaluation-harness on every model."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from atkd_jax import config_fields
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.run_directory import write_json
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder

# The paper's, of tasks that are commonly compared with so many; others say themselves.
_FEWSHOT = {"mmlu": 5, "drop": 3, "bbh": 3}


def check_harness(config: Config, tasks: str) -> list[str]:
    """Returns the names of the tasks, before anything long starts.

    Raises:
        InputError: lm-eval is not installed, there is no such task, or no such folder of tasks.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "evaluate: --harness runs tasks by the package lm-eval, which is not installed: "
            "pip install 'atkd-jax[harness]'."
        )
    folder = config.evaluation.harness.task_folder
    if folder is not None and not folder.is_dir():
        raise InputError(f"evaluation.harness.task_folder must be a folder of YAML files, but {folder} is none.")
    names = [name for name in (part.strip() for part in tasks.split(",")) if name]
    if not names:
        raise InputError(f"evaluate: --harness must name at least one task, such as mmlu,drop,bbh; {tasks!r} came.")
    known = _task_manager(folder, tuple(names)).all_tasks
    for name in names:
        if name not in known:
            near = config_fields.nearest(name, known)
            hint = f"the nearest is {near}" if near else "`lm-eval ls tasks` lists them"
            raise InputError(f"evaluate: --harness must name tasks of lm-eval, but {name!r} is none; {hint}.")
    return names


def run_harness(
    config: Config,
    tasks: str,
    models: Mapping[str, Decoder],
    tokenizers: Mapping[str, Any],
    *,
    mesh: Mesh,
    console: Console,
) -> None:
    """Runs the tasks on every model, prints a table, and keeps the results in harness.json of the run directory.

    Each model reads with its own of the tokenizers.

    Raises:
        InputError: A task's data cannot be read.
    """
    import lm_eval

    from atkd_jax.evaluation.harness import HarnessModel

    # Its signature says less than it takes.
    simple_evaluate: Any = lm_eval.simple_evaluate
    own = config.evaluation.harness
    names = check_harness(config, tasks)
    manager = _task_manager(own.task_folder, tuple(names))
    found: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        adapter = HarnessModel(
            model,
            tokenizers[name],
            batch_size=own.batch_size,
            max_length=own.max_length,
            max_new_tokens=own.max_new_tokens,
            mesh=mesh,
            progress=lambda title, total, name=name: progress_line(console, f"{name}: {title}", total=total),
        )
        found[name] = {}
        for task in names:
            shots = _FEWSHOT.get(task) if own.num_fewshot is None else own.num_fewshot
            try:
                results = simple_evaluate(
                    adapter,
                    tasks=[task],
                    num_fewshot=shots,
                    limit=own.limit,
                    apply_chat_template=own.chat,
                    task_manager=manager,
                    log_samples=False,
                    bootstrap_iters=1000,
                    random_seed=config.seed,
                )
            except (OSError, ConnectionError) as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(
                    f"evaluate: the data of the task {task} must be there or come from the hub, but {reason}."
                ) from error
            found[name] |= {title: _measures(title, row, results) for title, row in results["results"].items()}
    if jax.process_index() == 0:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        write_json(config.run_dir / "harness.json", {"tasks": tasks, "limit": own.limit, "models": found})
    console.print(_table(found))


@functools.lru_cache(maxsize=1)
def _task_manager(folder: Path | None, names: tuple[str, ...]) -> Any:
    """What knows the tasks of the folder, and the harness's own too, where those names are not all in the folder."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        # The harness has thousands of files to read, which takes seconds.
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(names) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=None if folder is None else str(folder))


def _measures(task: str, row: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """A task's numbers, by the harness's names without its filter where there is none, and its few-shot number."""
    numbers = {
        key.removesuffix(",none"): float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**numbers, "num_fewshot": results.get("n-shot", {}).get(task)}


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="lm-evaluation-harness", title_justify="left")
    for heading in ("task", "measure", *found):
        table.add_column(heading, justify="left" if heading in ("task", "measure") else "right")
    first: Sequence[str] = list(next(iter(found.values())))
    for task in first:
        for measure in next(iter(found.values()))[task]:
            if measure not in ("num_fewshot", "sample_len") and "stderr" not in measure:
                table.add_row(task, measure, *(f"{own[task][measure]:.4f}" for own in found.values()))
    return table
