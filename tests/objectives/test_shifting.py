import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.objectives import next_token_targets, paired_states


@given(data=st.data(), rows=st.integers(1, 3), length=st.integers(1, 9))
def test_equals_a_loop_over_positions(data, rows, length):
    def draw(elements):
        return np.array(data.draw(st.lists(elements, min_size=rows * length, max_size=rows * length)))

    tokens = draw(st.integers(0, 9)).astype(np.int32).reshape(rows, length)
    segments = np.sort(draw(st.integers(0, 3)).astype(np.int32).reshape(rows, length))
    loss_mask = draw(st.booleans()).reshape(rows, length)
    targets, mask = next_token_targets(tokens=tokens, segment_ids=segments, loss_mask=loss_mask)
    for row in range(rows):
        for t in range(length):
            counts = t + 1 < length and loss_mask[row, t + 1] and segments[row, t] == segments[row, t + 1] != 0
            assert bool(mask[row, t]) == counts
            if counts:
                assert int(targets[row, t]) == tokens[row, t + 1]


def test_the_state_before_a_target_goes_with_the_state_before_its_partner():
    """Two examples in a row: targets at 2, 3 and at 6, 7; the last has no partner."""
    index = np.asarray([[0, 0, 4, 5, 0, 0, 9, 0]], np.int32)
    states, paired = paired_states(index)
    assert paired.tolist() == [[False, True, True, False, False, True, False, False]]
    assert states.tolist() == [[0, 3, 4, 0, 0, 8, 0, 0]]


def test_a_token_that_begins_a_row_is_no_ones_partner():
    assert not paired_states(np.asarray([[7, 0, 0]], np.int32))[1].any()
