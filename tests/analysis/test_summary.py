import pytest

from atkd_jax.analysis.results import Result
from atkd_jax.analysis.summary import require_references, summarize
from atkd_jax.errors import InputError

GATES = {"cells": {"kd": {}, "atkd": {}}, "grid": {"student.layers": [2, 4]}, "seeds": [0, 1, 2]}
KLS = {"kd": (1.0, 1.2, 1.1), "atkd": (0.9, 0.8, 1.0), "t": (0.0,)}


def results_of(cells):
    return [
        Result(cell, {"forward_kl": KLS[cell.labels["cell"]][cell.seed], "tokens_per_second": 9.0}, {}, 1.0)
        for cell in cells
    ]


def references(study, cells):
    return {each.name: each.reference for each in summarize(results_of(cells), study)}


def test_a_choice_of_an_axis_is_compared_within_each_of_the_others(cells_of):
    study, cells = cells_of(**GATES, reference="kd", prepared={"t": {}})
    assert references(study, cells) == {
        "t": None,
        "kd,layers=2": None,
        "kd,layers=4": None,
        "atkd,layers=2": "kd,layers=2",
        "atkd,layers=4": "kd,layers=4",
    }
    summary = summarize(results_of(cells), study)[-1]
    assert summary.spreads["forward_kl"].mean == pytest.approx(0.9)
    found = summary.comparisons["forward_kl"]
    assert (found.n, found.mean_difference) == (3, pytest.approx(-0.2))
    assert "tokens_per_second" not in summary.comparisons  # It depends on what else the machine does.


def test_one_cell_or_one_for_each_can_be_the_reference(cells_of):
    study, cells = cells_of(**GATES, reference="kd,layers=2")
    assert set(references(study, cells).values()) == {None, "kd,layers=2"}
    study, cells = cells_of(**GATES, reference={"atkd,layers=4": "kd,layers=4"})
    found = references(study, cells)
    assert [name for name in found if found[name]] == ["atkd,layers=4"]


def test_a_reference_that_did_not_finish_is_none(cells_of):
    study, cells = cells_of(**GATES, reference="kd")
    assert set(references(study, [cell for cell in cells if cell.labels["cell"] == "atkd"]).values()) == {None}


def test_a_picture_s_axis_is_one_of_the_study_s(cells_of, tmp_path):
    study, cells = cells_of(**GATES, plots=[{"x": "layers"}])
    with pytest.raises(InputError, match=r"plots names the axis 'layers', but there are cell, student\.layers"):
        require_references(study, cells, tmp_path / "s.yaml")


@pytest.mark.parametrize("reference", ["sft", {"atkd,layers=2": "kd"}])
def test_a_reference_is_one_of_the_cells(cells_of, tmp_path, reference):
    study, cells = cells_of(**GATES, reference=reference)
    with pytest.raises(InputError, match=r"s\.yaml: reference names '(sft|kd)', but the cells are atkd,layers=2, "):
        require_references(study, cells, tmp_path / "s.yaml")
