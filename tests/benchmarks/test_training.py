"""The benchmark of whole steps: its protocol, its tables, and the work that devices share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.training import tables
from benchmarks.training_race import Side, race
from benchmarks.training_scaling import work_per_device

ROOT = Path(__file__).parent.parent.parent
PRETENDED = """
import time
from benchmarks.training_turns import Turns
turns, held = Turns(), []
print("what a library prints", flush=True)
steps = turns.next(matmul_flops=1e9, versions={"library": "1.2"})
while True:
    time.sleep(%s * steps)
    held = bytearray(%s * 2**20)
    turns.stop()
    steps = turns.next(loss=3.5, matmul_flops=1e9)
    held = []
"""


def pretended(seconds, mebibytes):
    return [sys.executable, "-c", PRETENDED % (seconds, mebibytes)]


def test_sides_take_turns_and_are_compared(tmp_path):
    # Long enough for the bounds below to hold beside other tests, which delay a turn by a tenth of a second.
    with (
        Side("ours", pretended(0.4, 1), log=tmp_path / "ours") as ours,
        Side("theirs", pretended(1.6, 64), log=tmp_path / "theirs") as theirs,
    ):
        found = race(ours, theirs, pairs=2, step_flops=4e7)
    assert theirs.about["versions"] == {"library": "1.2"}
    assert "what a library prints" in (tmp_path / "ours").read_text()
    assert 1.5 < found.speed_ratio < 5
    assert found.theirs.first_loss == 3.5
    assert 0 < found.matmul_fraction <= 0.11
    if Path("/proc/self/status").exists():
        assert 0.055 < found.theirs.peak_gib - found.ours.peak_gib < 0.075


def test_a_side_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"Tunix ended with code 1; .*log says:\n.*no such module"):
        Side("Tunix", [sys.executable, "-c", "raise SystemExit('no such module')"], log=tmp_path / "log")


def test_the_tables_hold_the_ratios():
    cost = {"seconds": 2.0, "peak_gib": 3.0, "first_loss": 12.5}
    found = {"ours": cost, "theirs": cost, "speed_ratio": 1.25, "memory_ratio": 0.5, "matmul_fraction": 0.75}
    case = {"rows": 1, "microseconds_per_token": 7.0, "temporary_gib_per_device": 0.25}
    facts = {"rows": 2, "length": 100, "races": {"TRL": found}}
    facts["devices"] = [case | {"devices": n, "work_per_device": 8.0 / n} for n in (1, 8)]
    of_length = {"flops_per_token": 6e8, "attention_share_of_teacher": 0.1, "matmul_fraction": 0.7}
    facts["lengths"] = [case | of_length | {"length": 256}]
    text = tables(facts)
    assert "| TRL | 2.00 | 2.00 | 100 | 1.25 | 3.00 | 0.50 | 0.75 | 12.5000 |" in text
    assert "| 8 | 1.0000 | 7 | 0.25 |" in text
    assert "| 256 | 1 | 7 | 600 | 10% | 0.70 | 0.25 |" in text


def test_eight_devices_share_the_work_evenly():
    assert 8 * work_per_device(8) == pytest.approx(work_per_device(1), rel=0.05)


@pytest.mark.slow
@pytest.mark.wheel
def test_our_side_runs_from_end_to_end(smollm2_directory, tmp_path):
    words = ["--rows=1", "--length=64", "--pairs=1", "--devices", "1", "--lengths", "64", f"--out={tmp_path}"]
    words.append(f"--cache_dir={smollm2_directory.parent.parent}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *words], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "trl was left out: name the interpreter of an environment with benchmarks/training_trl.txt" in done.stdout
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["races"]["ours, ATKD"]["ours"]["first_loss"] > 1
    assert facts["lengths"][0]["matmul_fraction"] > 0
