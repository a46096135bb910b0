import grain
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data.epochs import ShuffledEpochs


@given(size=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    shuffled = ShuffledEpochs(grain.MapDataset.range(size), seed=seed)
    places = [shuffled[epoch * size + place] for place in range(size)]
    assert sorted(index % size for index in places) == list(range(size))
    np.testing.assert_array_equal(shuffled.order(epoch), [index % size for index in places])


def test_epochs_and_seeds_differ_and_a_seed_does_not():
    orders = {
        (seed, epoch): tuple(ShuffledEpochs(grain.MapDataset.range(30), seed=seed).order(epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    assert tuple(ShuffledEpochs(grain.MapDataset.range(30), seed=2).order(1)) == orders[2, 1]


def test_distant_places_need_no_walk_through_those_between():
    shuffled = ShuffledEpochs(grain.MapDataset.range(10), seed=0)
    assert {shuffled[10 * 10**9 + place] for place in range(10)} == set(range(10))
    assert len(shuffled) == 10


def test_grain_goes_on_with_it():
    shuffled = ShuffledEpochs(grain.MapDataset.range(10), seed=0)
    assert list(shuffled[2:5].map(str)) == [str(shuffled[index]) for index in (2, 3, 4)]
