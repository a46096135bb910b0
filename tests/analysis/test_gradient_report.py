import json

import pytest
from run_directories import write_run

from atkd_jax.analysis.gradient_report import gradient_blocks, is_of_gradient_share
from atkd_jax.analysis.page import Pictures, Table
from atkd_jax.analysis.run_files import read_runs
from atkd_jax.analysis.run_report import run_report


@pytest.fixture
def measured_run(tmp_path):
    """A run whose shares were measured at every tenth step, once of a gradient of nothing."""
    run_dir = write_run(tmp_path / "runs" / "shares", everything=False)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines[9::10]:
        of_easy = None if line["step"] == 20 else line["step"] / 100
        line |= {"gradient_share/easy": of_easy, "gradient_share/hard": 0.75}
        line |= {"gradient_cosine/easy": 0.5, "gradient_norm/easy": 2.0}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def test_shares_have_pictures_and_means_of_their_own(measured_run, run_dir):
    pictures, table, _ = gradient_blocks(read_runs([measured_run, run_dir]))
    assert isinstance(pictures, Pictures)
    assert isinstance(table, Table)
    titles = ["share of the gradient", "cosine to the whole gradient", "norm of the part"]
    assert [each.description for each in pictures.pictures] == [f"shares: {title} by step" for title in titles]
    assert table.rows == [["easy", "20.0%"], ["hard", "75.0%"]]
    assert gradient_blocks(read_runs([run_dir])) == []
    page = run_report(read_runs([measured_run]))
    assert "Shares of the gradient" in page
    assert "gradient_share/easy by step" not in page


def test_a_parts_norm_is_not_the_norm_of_the_gradient():
    assert is_of_gradient_share("gradient_norm/easy")
    assert not is_of_gradient_share("gradient_norm")
