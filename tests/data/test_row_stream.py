import json

import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data import row_stream
from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.row_stream import RowStream


def encoded_of(lengths):
    """Examples whose every token tells which example it is of, and where it stands; length 0 is a dropped one."""
    return [
        EncodedExample(1000 * number + np.arange(length, dtype=np.int32), np.arange(length) > 0, False)
        if length
        else None
        for number, length in enumerate(lengths)
    ]


def stream_of(lengths, **settings):
    settings = {"row": 0, "row_count": 1, "sequence_length": 32, "packing": True} | settings
    return RowStream(grain.MapDataset.source(encoded_of(lengths)).repeat(), **settings)


def numbers(row):
    return [int(example.tokens[0]) // 1000 for example in row]


def test_a_row_takes_every_nth_example_across_the_ends_of_epochs():
    stream = stream_of([9] * 5, row=1, row_count=3, packing=False)
    assert [numbers(next(stream)) for _ in range(6)] == [[1], [4], [2], [0], [3], [1]]


def test_more_rows_than_examples_leave_no_row_empty():
    for row in range(8):
        assert numbers(next(stream_of([9] * 3, row=row, row_count=8, packing=False))) == [row % 3]


@given(lengths=st.lists(st.integers(0, 32), min_size=1, max_size=40).filter(any), rows=st.integers(1, 60))
def test_every_example_read_is_handed_out_once_or_waits(lengths, rows):
    stream = stream_of(lengths)
    handed_out = sorted(number for _ in range(rows) for number in numbers(next(stream)))
    state = stream.get_state()
    waiting = [place % len(lengths) for row in state["open"] for place in row]
    read = [place % len(lengths) for place in range(state["read"]) if lengths[place % len(lengths)]]
    assert sorted(handed_out + waiting) == sorted(read)
    assert state["counts"]["examples"] == len(handed_out)
    assert state["counts"]["dropped"] == state["read"] - len(read)
    assert state["counts"]["rows"] == rows


@given(
    lengths=st.lists(st.integers(0, 32), min_size=1, max_size=40).filter(any),
    rows=st.integers(0, 30),
    packing=st.booleans(),
)
def test_a_restored_stream_goes_on_as_the_first_would_have(lengths, rows, packing):
    first = stream_of(lengths, packing=packing)
    for _ in range(rows):
        next(first)
    second = stream_of(lengths, packing=packing)
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert second.get_state() == first.get_state()
    assert [numbers(next(second)) for _ in range(20)] == [numbers(next(first)) for _ in range(20)]
    assert second.get_state() == first.get_state()


def test_no_example_waits_for_ever(monkeypatch):
    monkeypatch.setattr(row_stream, "LONGEST_WAIT", 10)
    # The first leaves room that none of the others fits into, and the others fill rows of their own.
    stream = stream_of([5] + [32] * 99)
    rows = [numbers(next(stream)) for _ in range(12)]
    assert rows.index([0]) == 10


def test_counts_tell_what_was_truncated():
    examples = [EncodedExample(np.zeros(20, np.int32), np.arange(20) > 10, truncated=True)]
    stream = RowStream(
        grain.MapDataset.source(examples).repeat(), row=0, row_count=1, sequence_length=32, packing=False
    )
    next(stream)
    counts = stream.get_state()["counts"]
    expected = {"examples": 1, "truncated": 1, "dropped": 0, "rows": 1, "tokens": 20, "target_tokens": 9}
    assert counts == expected


def test_a_state_that_names_a_dropped_example_is_refused():
    stream = stream_of([0, 9])
    state = stream.get_state() | {"open": [[0]]}
    with pytest.raises(ValueError, match="Example 0 of row 0 waits in an open row, but now it is dropped"):
        stream.set_state(state)
