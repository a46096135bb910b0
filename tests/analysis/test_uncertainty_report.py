import pytest

from atkd_jax.analysis.page import Pictures, Table
from atkd_jax.analysis.uncertainty_report import uncertainty_blocks

LINES = [["teacher", "tokens", "mean"], ["a.b", "120", "0.123456"], ["c", "120", "1e-05"]]


def test_fractions_are_cut_and_names_and_counts_are_not():
    (table,) = uncertainty_blocks("run", LINES, None)
    assert isinstance(table, Table)
    assert (table.caption, table.headings) == ("run", LINES[0])
    assert table.rows == [["a.b", "120", "0.1235"], ["c", "120", "1e-05"]]


def test_the_picture_stands_first():
    pictures, _ = uncertainty_blocks("run", LINES, b"png")
    assert isinstance(pictures, Pictures)
    assert pictures.pictures[0].description == "run: density of the teachers' uncertainty"


@pytest.mark.parametrize("picture", [None, b"png"])
def test_without_a_table_there_is_nothing(picture):
    assert uncertainty_blocks("run", [], picture) == []
