import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data.packing import Packer

LENGTHS = st.lists(st.integers(1, 30), max_size=80)


def pack(lengths, *, capacity=30, open_rows=4):
    packer = Packer(capacity=capacity, open_rows=open_rows)
    closed = [packer.add(item, length=length, position=item) for item, length in enumerate(lengths)]
    return [row for row in closed if row is not None], packer


@given(lengths=LENGTHS, open_rows=st.integers(1, 6))
def test_every_item_comes_out_once_in_a_row_that_holds_it(lengths, open_rows):
    closed, packer = pack(lengths, open_rows=open_rows)
    rows = closed + list(packer.flush())
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(row == sorted(row) for row in rows)
    assert all(0 < sum(lengths[item] for item in row) <= 30 for row in rows)
    assert packer.open_items == []


@given(lengths=LENGTHS, open_rows=st.integers(1, 6), data=st.data())
def test_a_restored_packer_goes_on_as_the_first_would_have(lengths, open_rows, data):
    cut = data.draw(st.integers(0, len(lengths)))
    whole, whole_packer = pack(lengths, open_rows=open_rows)
    head, packer = pack(lengths[:cut], open_rows=open_rows)
    restored = Packer(capacity=30, open_rows=open_rows)
    for row in packer.open_items:
        restored.restore([(item, lengths[item], item) for item in row])
    tail = [restored.add(item, length=lengths[item], position=item) for item in range(cut, len(lengths))]
    assert head + [row for row in tail if row is not None] == whole
    assert restored.open_items == whole_packer.open_items


@given(lengths=LENGTHS, open_rows=st.integers(1, 6))
def test_no_more_rows_are_open_than_allowed_and_none_is_full(lengths, open_rows):
    packer = Packer(capacity=30, open_rows=open_rows)
    for item, length in enumerate(lengths):
        packer.add(item, length=length, position=item)
        assert len(packer.open_items) <= open_rows
        assert all(sum(lengths[item] for item in row) < 30 for row in packer.open_items)


def test_an_item_goes_into_the_fullest_row_with_room_and_the_fullest_closes():
    lengths = [20, 14, 9, 10, 25, 26]
    closed, packer = pack(lengths, open_rows=2)
    # 9 joins 20, 10 joins 14; then 25 finds no room: [0, 2] with 29 closes, and 26 closes [4] with 25.
    assert closed == [[0, 2], [4]]
    assert packer.open_items == [[1, 3], [5]]


def test_a_row_that_is_full_closes_at_once():
    closed, packer = pack([10, 20, 30])
    assert closed == [[0, 1], [2]]
    assert packer.open_items == []


def test_an_old_row_closes_as_it_is():
    _, packer = pack([20, 25])
    assert packer.close_overdue(opened_before=0) is None
    assert packer.close_overdue(opened_before=1) == [0]
    assert packer.close_overdue(opened_before=1) is None


@pytest.mark.parametrize("length", [0, 31])
def test_an_item_that_no_row_holds_is_refused(length):
    with pytest.raises(ValueError, match=rf"An item's length must lie in 1\.\.30, but is {length}: cut it first\."):
        Packer(capacity=30, open_rows=1).add("x", length=length, position=0)
