"""The benchmark runs on a small model, and what it compares writes the same text."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.generation import measure_generation


def test_both_are_measured_and_write_the_same(tiny_teacher_directory):
    found = measure_generation(tiny_teacher_directory, rows=(1, 3), prompt_tokens=5, new_tokens=6, pairs=1)
    assert list(found) == [1, 3]
    for row in found.values():
        assert row.same_text == 1
        assert min(row.tokens_per_second, row.torch_tokens_per_second, row.ratio) > 0
