"""Pairs, ratios and the growth of the process."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.measuring import measure, process_growth_gib


def test_a_run_is_measured_in_turn_with_its_reference():
    order = []

    def run(name, seconds):
        order.append(name)
        time.sleep(seconds)

    found = measure(
        lambda: run("mine", 0.03), reference=lambda: run("theirs", 0.01), reference_name="theirs", repeats=2
    )
    assert order[:6] == ["theirs", "mine"] * 3
    assert 0.03 <= found.seconds < 0.3
    assert found.ratio > 1
    assert found.reference == "theirs"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_growth_is_that_of_the_run_alone():
    np.ones(2**27, np.uint8).sum()  # A peak before it, which does not count.
    # Some pages that it needs may be there already.
    assert 0.24 <= process_growth_gib(lambda: np.ones(2**28, np.uint8).sum()) < 0.3
    assert process_growth_gib(lambda: None) < 0.01
