import numpy as np

from atkd_jax.data.counts import Counts, counts_of_row, total
from atkd_jax.data.encoding import EncodedExample


def test_counts_add_up():
    one = EncodedExample(np.zeros(5, np.int32), np.asarray([False, False, True, True, True]), False)
    two = EncodedExample(np.zeros(2, np.int32), np.asarray([False, True]), True)
    counts = total([counts_of_row([one, two]), counts_of_row([]), Counts(dropped=3, truncated=1)])
    assert counts == Counts(examples=2, truncated=1, dropped=3, rows=2, tokens=7, target_tokens=4)
    assert counts.fill(sequence_length=10) == 7 / 20


def test_nothing_fills_nothing():
    assert total([]).fill(sequence_length=10) == 0.0
