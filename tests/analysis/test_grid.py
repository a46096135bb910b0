import pytest

from atkd_jax.analysis.grid import expand
from atkd_jax.analysis.study_file import read_study
from atkd_jax.errors import InputError

TWO_SEEDS = {"seeds": [0, 1]}


def test_axes_are_multiplied_with_each_other_the_cells_and_the_seeds(cells_of, tmp_path):
    grid = {
        "objective.easy_weight": [0.1, 0.9],
        "student": {"small": {"student": {"layers": 2}}, "large": {"student.layers": 6}},
    }
    cells = {"kd": {"settings": {"objective.name": "forward_kl"}}, "atkd": {}}
    _, found = cells_of(grid=grid, cells=cells, seeds=[0, 5])
    assert len(found) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in found[:8]] == [0] * 8  # Every cell has a first result early.
    by_key = {cell.key: cell for cell in found}
    cell = by_key["kd,easy_weight=0.9,small/5"]
    assert dict(cell.labels) == {"cell": "kd", "objective.easy_weight": "easy_weight=0.9", "student": "small"}
    config = cell.config
    assert (config.objective.name, config.objective.easy_weight, config.student.layers) == ("forward_kl", 0.9, 2)
    assert (config.seed, config.training.steps, config.run_dir) == (5, 2, tmp_path / "out" / cell.key)


def test_files_are_cells_and_the_study_s_settings_go_over_theirs(cells_of, tmp_path):
    (tmp_path / "one.method.yaml").write_text("objective:\n  name: forward_kl\ntraining:\n  steps: 9\n")
    (tmp_path / "two.yaml").write_text("objective:\n  name: reverse_kl\n")
    _, found = cells_of(configs=["one.*.yaml", "two.yaml"], settings={"training.steps": 3})
    assert [(cell.name, cell.config.objective.name) for cell in found] == [
        ("one.method", "forward_kl"),
        ("two", "reverse_kl"),
    ]
    assert {cell.config.training.steps for cell in found} == {3}


def test_a_study_without_cells_is_its_base(cells_of):
    _, (cell,) = cells_of(settings={"student.layers": 4})
    assert (cell.name, dict(cell.labels), cell.config.student.layers) == ("run", {}, 4)


def test_what_is_needed_comes_first_and_is_not_multiplied(cells_of, tmp_path):
    cells = {"kd": {"settings": {"student": {"init": "directory", "directory": "cell:assistant"}}}}
    prepared = {
        "assistant": {"settings": {"teacher.model": "cell:teacher"}, "seeds": [0, 1]},
        "teacher": {},
    }
    _, found = cells_of(cells=cells, prepared=prepared, seeds=[0, 1], grid={"objective.beta": [0.1, 0.2]})
    keys = [cell.key for cell in found]
    assert sorted(keys) == sorted(
        ["teacher/0", "assistant/0", "assistant/1", *(f"kd,beta=0.{b}/{s}" for b in (1, 2) for s in (0, 1))]
    )
    for place, cell in enumerate(found):
        assert set(cell.needs) <= set(keys[:place])
    by_key = {cell.key: cell for cell in found}
    assert by_key["assistant/1"].needs == ("teacher/0",)
    assert by_key["kd,beta=0.2/1"].needs == ("assistant/1",)
    assert by_key["kd,beta=0.2/1"].config.student.directory == tmp_path / "out" / "assistant" / "1" / "student"
    assert [cell.starts for cell in found] == [(None,) if cell.is_prepared else () for cell in found]


def test_a_cell_starts_from_a_checkpoint_of_another(cells_of, tmp_path):
    prepared = {"large": {"settings": {"training.steps": 10, "checkpoint": {"every_steps": 4, "keep": 2}}}}
    names = {"early": "cell:large@8", "late": "cell:large", "again": "cell:large@8"}
    _, found = cells_of(
        prepared=prepared, cells={name: {"settings": {"teacher.model": at}} for name, at in names.items()}
    )
    by_key = {cell.key: cell for cell in found}
    assert by_key["early/0"].config.teacher.model == str(tmp_path / "out" / "large" / "0" / "student-8")
    assert by_key["late/0"].config.teacher.model == str(tmp_path / "out" / "large" / "0" / "student")
    assert by_key["large/0"].starts == (8, None)


def test_overrides_go_over_all(write_study):
    path = write_study(cells={"a": {"settings": {"training.steps": 7}}})
    (cell,) = expand(read_study(path), path=path, overrides={"training.steps": "4"})
    assert cell.config.training.steps == 4


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"grid": {"objective.esy_weight": [1]}}, r"study\.yaml, cell esy_weight=1: unknown key objective\.esy_weight"),
        ({"grid": {"objective.beta": [3]}}, r"cell beta=3: objective\.beta must be a number from 0 to 1, but 3 came"),
        ({"grid": {"objective.beta": []}}, r"grid\.objective\.beta must have something to choose from"),
        ({"grid": {"data.source": ["a/b", "a b"]}}, r"two cells are called source=a-b"),
        ({"cells": {"a b": {}}}, r"a cell's name may have letters, digits and"),
        ({"configs": ["no*.yaml"]}, r"configs names no\*\.yaml, but no file is called so"),
        ({"configs": ["base.yaml"], "cells": {"base": {}}}, r"the cell base is a file of configs and stands in cells"),
        ({"settings": {"run_dir": "x"}}, r"cell run: the study gives each run its run_dir; leave it out"),
        ({"base": "absent.yaml"}, r"absent\.yaml: there is no such config file"),
        ({"settings": {"teacher.model": "cell:big"}}, r"cell run: teacher\.model names the cell 'big', but there are"),
        (
            {"settings": {"checkpoint": {"every_steps": 4, "keep": 2}, "training.steps": 10}}
            | {"cells": {"a": {"settings": {"teacher.model": "cell:t@4"}}, "t": {}}},
            r"cell a: teacher\.model needs t after step 4, but at its end there are checkpoints of 8, 10; set ",
        ),
        (
            {"cells": {"a": {"settings": {"teacher.model": "cell:t"}}}, "seeds": [7], "prepared": {"t": TWO_SEEDS}},
            r"cell a: teacher\.model needs the cell t with seed 7, but it is run with \[0, 1\]",
        ),
        (
            {
                "cells": {
                    "a": {"settings": {"teacher.model": "cell:b"}},
                    "b": {"settings": {"teacher.model": "cell:a"}},
                }
            },
            r"the cells a/0 -> b/0 -> a/0 need each other",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(cells_of, tree, sentence):
    with pytest.raises(InputError, match=sentence):
        cells_of(**tree)
