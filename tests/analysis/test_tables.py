import csv
import io
import json
import math

import pytest

from atkd_jax.analysis.results import Result
from atkd_jax.analysis.summary import summarize
from atkd_jax.analysis.tables import as_csv, as_json, as_markdown


@pytest.fixture
def found(cells_of):
    """Results of two cells over two seeds, one of them diverged, and their summaries."""
    study, cells = cells_of(cells={"kd": {}, "atkd": {}}, seeds=[0, 1], reference="kd")
    values = {"kd": (20.0, 22.0), "atkd": (19.0, 20.5)}
    results = [
        Result(cell, {"perplexity": values[cell.name][cell.seed], "rouge_l": math.inf}, {"perplexity": 5.0}, 1.5)
        for cell in cells
    ]
    return results, summarize(results, study)


def test_csv_has_a_line_for_every_run(found):
    rows = list(csv.DictReader(io.StringIO(as_csv(found[0]))))
    assert len(rows) == 4
    assert rows[0] == {
        "name": "kd", "cell": "kd", "seed": "0", "prepared": "0", "perplexity": "20.0", "rouge_l": "inf",
        "teacher_perplexity": "5.0", "seconds": "1.5", "peak_bytes": "",
    }  # fmt: skip


def test_json_is_strict_and_has_runs_summaries_and_failures(found):
    kept = json.loads(json.dumps(as_json(*found, {"x/0": "it ended with exit code 2"}), allow_nan=False))
    assert [run["name"] for run in kept["runs"]] == ["kd", "atkd", "kd", "atkd"]
    assert kept["runs"][0]["measures"] == {"perplexity": 20.0, "rouge_l": None}
    (_, atkd) = kept["summary"]
    assert atkd["spreads"]["perplexity"] == {"n": 2, "mean": 19.75, "deviation": pytest.approx(1.06066, abs=1e-5)}
    assert atkd["comparisons"]["perplexity"]["mean_difference"] == -1.25
    assert kept["failed"] == {"x/0": "it ended with exit code 2"}


def test_the_table_says_mean_spread_difference_and_pairs(found):
    text = as_markdown(found[1], {"x/0": "it ended with exit code 2"})
    assert "| cell | seeds | perplexity | ROUGE-L |" in text
    assert "| kd | 2 | 21.00 ± 1.41 | inf ± nan |" in text
    p_value = found[1][1].comparisons["perplexity"].p_value
    assert f"| atkd | kd | -1.25 ({p_value:.3f}) |" in text
    assert text.rstrip().endswith("Failed: x/0: it ended with exit code 2.")


def test_nothing_is_a_table_too():
    assert "| cell | seeds |" in as_markdown([], {})
