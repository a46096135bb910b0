import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data.packed_numbers import (
    LOG_PROB_FLOOR,
    LOG_PROB_STEP,
    id_bytes,
    pack_ids,
    pack_log_probs,
    unpack_ids,
    unpack_log_probs,
)


@given(st.integers(2, 300_000), st.integers(0, 67), st.integers(0, 9))
def test_ids_come_back_from_as_few_bits_as_the_vocabulary_needs(vocab_size, count, seed):
    ids = np.random.default_rng(seed).integers(0, vocab_size, count)
    ids[:1] = vocab_size - 1
    data = pack_ids(ids, vocab_size)
    assert len(data) == id_bytes(count, vocab_size)
    np.testing.assert_array_equal(unpack_ids(data, count, vocab_size), ids)


@pytest.mark.parametrize(("vocab_size", "bits"), [(256, 8), (257, 16), (65_536, 16), (65_537, 17), (262_144, 18)])
def test_the_width_of_an_id(vocab_size, bits):
    assert id_bytes(800, vocab_size) == 100 * bits


@given(st.lists(st.floats(-80.0, 0.0), max_size=40))
def test_log_probs_are_off_by_half_a_step_at_most(values):
    found = unpack_log_probs(pack_log_probs(np.array(values)), len(values))
    np.testing.assert_allclose(found, np.maximum(values, LOG_PROB_FLOOR), rtol=0, atol=LOG_PROB_STEP / 2 + 1e-9)


def test_an_unused_entry_stays_unused():
    assert unpack_log_probs(pack_log_probs(np.array([-np.inf, -1e30])), 2).tolist() == [-np.inf, LOG_PROB_FLOOR]
