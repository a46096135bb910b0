import json

import numpy as np
import pytest

from atkd_jax.data import ArrayBatches
from atkd_jax.errors import InputError


def batches(count=7, **changes):
    arrays = {"x": np.arange(count), "y": 10 * np.arange(count)}
    return ArrayBatches(arrays, **({"batch_size": 3, "seed": 1} | changes))


def test_epochs_are_laid_end_to_end_each_in_another_order():
    ours = batches()
    seen = np.concatenate([next(ours)["x"] for _ in range(7)])
    epochs = [seen[:7], seen[7:14], seen[14:]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert ours.metrics(ours.numbers) == {"data/epoch": 3.0, "data/examples": 21.0}


def test_a_position_goes_through_json():
    whole, first, second = batches(), batches(), batches()
    expected = [next(whole) for _ in range(6)]
    for _ in range(4):
        next(first)
    second.set_state(json.loads(json.dumps(first.get_state())))
    for batch in expected[4:]:
        found = next(second)
        for name in ("x", "y"):
            np.testing.assert_array_equal(found[name], batch[name])


def test_another_runs_position_and_uneven_arrays_are_refused():
    with pytest.raises(InputError, match=r"was saved with \{'examples': 7, 'seed': 1\}"):
        batches(seed=2).set_state(batches().get_state())
    with pytest.raises(InputError, match="as many of each array"):
        ArrayBatches({"x": np.arange(2), "y": np.arange(3)}, batch_size=1, seed=0)
