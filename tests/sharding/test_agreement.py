import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.sharding import SumOverProcesses, gathered, make_mesh
from atkd_jax.sharding.agreement import PendingSum, _parts


def test_one_process_agrees_with_itself():
    assert gathered({"a": [1, None]}) == [{"a": [1, None]}]
    pending = SumOverProcesses(make_mesh(devices=jax.devices()[:1])).start({"rows": 7, "tokens": 2**59})
    assert pending.read() == {"rows": 7, "tokens": 2**59}


@given(st.lists(st.integers(0, 2**49), min_size=1, max_size=2048))
def test_sums_of_large_numbers_are_exact(numbers):
    parts = np.array([_parts(number) for number in numbers], np.int32).sum(axis=0, dtype=np.int32)
    assert PendingSum(("tokens",), [parts]).read() == {"tokens": sum(numbers)}
