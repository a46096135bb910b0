from types import SimpleNamespace

import pytest

from atkd_jax.commands.study_room import MemoryRoom

GIB = 2**30


def at_work(*held):
    """Cells that hold so many GiB each."""
    return [
        (SimpleNamespace(key=number), SimpleNamespace(resident_bytes=lambda own=own: own * GIB))
        for number, own in enumerate(held)
    ]


@pytest.fixture
def room():
    """Makes a room with so many GiB free, and the list of what it says."""

    def make(*peaks, free, share=0.0):
        said = []
        settings = {"share_done": lambda _: share, "available_bytes": lambda: free * GIB}
        return MemoryRoom((peak * GIB for peak in peaks), report=said.append, **settings), said

    return make


def test_one_cell_goes_ahead_alone_until_its_training_has_begun(room):
    is_free, said = room(free=100)
    assert not is_free(at_work(1))
    assert said == []
    is_free, _ = room(free=100, share=0.1)
    assert is_free(at_work(1))


def test_a_cell_of_an_earlier_sitting_is_known_from_the_start(room):
    assert room(0, 3, free=5)[0](at_work(2))


def test_there_is_room_where_what_is_left_holds_another_of_the_largest(room):
    assert room(free=4, share=0.5)[0](at_work(4))
    assert not room(free=3, share=0.5)[0](at_work(4))
    # The second has just begun, and will take three more.
    assert not room(free=6, share=0.5)[0](at_work(4, 1))
    assert room(free=7, share=0.5)[0](at_work(4, 1))


def test_it_says_once_why_a_cell_waits(room):
    is_free, said = room(2, free=1)
    assert not is_free(at_work(2))
    assert not is_free(at_work(2))
    assert said == ["A cell holds 2.0 GiB and 1.0 GiB are left: the next one waits."]
