"""From a study to its cells: every run with its resolved config, and which others it needs first."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atkd_jax.analysis.study_file import CellSettings, Study, flat_settings
from atkd_jax.config import Config
from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError

# What stands before a cell's name where a setting is that cell's student.
CELL_PREFIX = "cell:"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: Of the cell, the same over all seeds.
        seed: Of this run.
        labels: What it is on each axis; `cell` is the first.
        config: Resolved; its run directory lies in the study's.
        needs: Keys of the cells whose students it starts from.
        is_prepared: Whether it is one that others start from, and not one of the grid.
        starts: After which steps other cells start from its student; None for the last.
    """

    name: str
    seed: int
    labels: Mapping[str, str]
    config: Config
    needs: tuple[str, ...] = ()
    is_prepared: bool = False
    starts: tuple[int | None, ...] = ()

    @property
    def key(self) -> str:
        """`NAME/SEED`, by which the command line names it."""
        return f"{self.name}/{self.seed}"

    def student(self, step: int | None) -> Path:
        """Where its student stands as other cells start from it, after a step or, for None, after the last."""
        return self.config.run_dir / ("student" if step is None else f"student-{step}")


@dataclass(frozen=True)
class _Draft:
    """A cell whose settings are not resolved yet."""

    name: str
    labels: dict[str, str]
    config: Path | None
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    is_prepared: bool


def expand(study: Study, *, path: Path, overrides: Mapping[str, object] | None = None) -> list[Cell]:
    """Returns the study's cells in the order in which they can be run: what is needed comes first.

    Args:
        study: The study.
        path: Its file, for errors and for paths of configs.
        overrides: Go over the settings of all cells.

    Raises:
        InputError: A config is missing or wrong, a name stands twice, or a cell needs what is not there.
    """
    drafts = {draft.name: draft for draft in _unique(_drafts(study, path), path)}
    starts: dict[str, list[int | None]] = {}
    cells: dict[str, Cell] = {}

    def resolve(name: str, seed: int, above: tuple[str, ...]) -> Cell:
        key = f"{name}/{seed}"
        if key in above:
            raise InputError(f"{path}: the cells {' -> '.join((*above, key))} need each other; take one of them out.")
        if key not in cells:
            draft, needs = drafts[name], []
            settings: dict[str, Any] = dict(draft.settings) | dict(overrides or {})
            if own := settings.keys() & {"run_dir", "seed"}:
                raise InputError(f"{path}, cell {name}: the study gives each run its {own.pop()}; leave it out.")
            for dotted, value in settings.items():
                if isinstance(value, str) and value.startswith(CELL_PREFIX):
                    where = f"{path}, cell {name}: {dotted}"
                    source, step = _source(value.removeprefix(CELL_PREFIX), seed, drafts, where)
                    other = resolve(*source, (*above, key))
                    if step is not None:
                        _require_checkpoint(other, step, where)
                    needs.append(other.key)
                    starts.setdefault(other.key, []).append(step)
                    settings[dotted] = str(other.student(step))
            settings |= {"run_dir": str(study.directory / key), "seed": seed}
            config = load_config(draft.config, settings, origin=f"{path}, cell {name}")
            cells[key] = Cell(name, seed, draft.labels, config, tuple(needs), draft.is_prepared)
        return cells[key]

    # The seeds of a cell are far apart, so that the first results are of all cells.
    runs = [(draft, place) for draft in drafts.values() for place in range(len(draft.seeds))]
    for draft, place in sorted(runs, key=lambda run: (not run[0].is_prepared, run[1])):
        resolve(draft.name, draft.seeds[place], ())
    return [dataclasses.replace(cell, starts=tuple(dict.fromkeys(starts.get(cell.key, ())))) for cell in cells.values()]


def _source(text: str, seed: int, drafts: Mapping[str, _Draft], where: str) -> tuple[tuple[str, int], int | None]:
    """The cell that a setting names, with the same seed or with its only one, and the step in `NAME@STEP`."""
    name, at, digits = text.rpartition("@")
    step = int(digits) if at and digits.isdecimal() and text not in drafts else None
    name = text if step is None else name
    if name not in drafts:
        raise InputError(f"{where} names the cell {name!r}, but there are {', '.join(drafts)}.")
    seeds = drafts[name].seeds
    if seed in seeds or len(seeds) == 1:
        return (name, seed if seed in seeds else seeds[0]), step
    raise InputError(f"{where} needs the cell {name} with seed {seed}, but it is run with {list(seeds)}.")


def _require_checkpoint(cell: Cell, step: int, where: str) -> None:
    """Raises InputError where a cell at its end has no checkpoint of a step any more."""
    every, last = cell.config.checkpoint.every_steps, cell.config.training.steps
    kept = sorted({*range(every, last, every), last})[-cell.config.checkpoint.keep :]
    if step not in kept:
        raise InputError(
            f"{where} needs {cell.name} after step {step}, but at its end there are checkpoints of "
            f"{', '.join(map(str, kept))}; set checkpoint.every_steps and checkpoint.keep of {cell.name}."
        )


def _drafts(study: Study, path: Path) -> Iterator[_Draft]:
    for name, cell in study.prepared.items():
        yield _draft(study, path, name, cell, {}, is_prepared=True)
    kinds = {file.stem: CellSettings(config=file) for file in _files(study, path)}
    for name in kinds.keys() & study.cells.keys():
        raise InputError(f"{path}: the cell {name} is a file of configs and stands in cells as well; rename one.")
    axes = [list(_choices(axis, choices, path)) for axis, choices in study.grid.items()]
    for name, cell in ((kinds | study.cells) or {"": CellSettings()}).items():
        for combination in itertools.product(*axes):
            yield _draft(study, path, name, cell, dict(zip(study.grid, combination, strict=True)))


def _draft(
    study: Study,
    path: Path,
    name: str,
    cell: CellSettings,
    combination: Mapping[str, tuple[str, dict[str, Any]]],
    *,
    is_prepared: bool = False,
) -> _Draft:
    config = cell.config or study.base
    labels = ({"cell": name} if name else {}) | {axis: label for axis, (label, _) in combination.items()}
    full = ",".join(labels.values()) or "run"
    if not re.fullmatch(r"[\w.=+,-]+", full) or full.startswith("."):
        raise InputError(f"{path}: a cell's name may have letters, digits and . = + , - _ in it, but {full!r} came.")
    settings = flat_settings(study.settings) | flat_settings(cell.settings)
    for _, chosen in combination.values():
        settings |= chosen
    seeds = cell.seeds or (study.seeds[:1] if is_prepared else study.seeds)
    return _Draft(full, labels, config and path.parent / config, settings, seeds, is_prepared)


def _choices(axis: str, choices: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The labels and the settings of an axis: named groups, or values of the key that the axis is named for."""
    if not choices:
        raise InputError(f"{path}: grid.{axis} must have something to choose from, but nothing came.")
    if isinstance(choices, dict):
        yield from ((name, flat_settings(settings)) for name, settings in choices.items())
        return
    for value in choices:
        plain = re.sub(r"[^\w.+-]+", "-", str(value))
        yield f"{axis.rpartition('.')[2]}={plain}", {axis: value}


def _files(study: Study, path: Path) -> Iterator[Path]:
    for pattern in study.configs:
        found = sorted(path.parent.glob(pattern))
        if not found:
            raise InputError(f"{path}: configs names {pattern}, but no file is called so, seen from the study's.")
        yield from (file.absolute() for file in found)


def _unique(drafts: Iterator[_Draft], path: Path) -> Iterator[_Draft]:
    seen = set()
    for draft in drafts:
        if draft.name in seen:
            raise InputError(f"{path}: two cells are called {draft.name}; choose names and values that differ.")
        seen.add(draft.name)
        yield draft
