import json

import pytest
from run_directories import HOSTILE

from atkd_jax.analysis.landscape_report import landscape_blocks
from atkd_jax.analysis.run_files import read_runs


@pytest.fixture
def seen_run(run_dir):
    seeds = [
        {"seed": 0, "loss": 1.5, "rise": 0.25, "curvature": 4.0},
        {"seed": 1, "loss": 1.5, "rise": 0.75, "curvature": None},
    ]
    facts = {"source": HOSTILE, "split": "test", "radius": 0.5, "dimensions": 1, "students": {"kd": seeds}}
    (run_dir / "landscape.json").write_text(json.dumps(facts))
    return run_dir


def blocks_of(run_dir):
    (run,) = read_runs([run_dir])
    return landscape_blocks(run.name, run.landscape, run.landscape_picture)


def test_sharpness_is_told_with_its_spread_and_its_rule(seen_run):
    table, note = blocks_of(seen_run)
    assert table.rows == [["kd", "2", "1.5000", "0.5000 ± 0.3536", "not finite"]]
    assert "within the radius of 0.5" in note.text
    (seen_run / "landscape.png").write_bytes(b"\x89PNG")
    pictures, *_ = blocks_of(seen_run)
    assert pictures.pictures[0].address == "data:image/png;base64,iVBORw=="


def test_a_run_that_was_not_looked_around_has_no_section(run_dir):
    assert blocks_of(run_dir) == []
