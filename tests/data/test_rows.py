import numpy as np
import pytest

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.rows import batch_of_rows, rows_of_process
from atkd_jax.errors import InputError


def example(tokens, prompt_tokens):
    return EncodedExample(np.asarray(tokens, np.int32), np.arange(len(tokens)) >= prompt_tokens, False)


def test_a_batch_is_written_out():
    rows = [[example([5, 6, 7], 2), example([8, 9], 1)], []]
    batch = batch_of_rows(rows, sequence_length=7, padding_id=1)
    expected = {
        "tokens": [[5, 6, 7, 8, 9, 1, 1], [1] * 7],
        "positions": [[0, 1, 2, 0, 1, 0, 0], [0] * 7],
        "segment_ids": [[1, 1, 1, 2, 2, 0, 0], [0] * 7],
        "loss_mask": [[False, False, True, False, True, False, False], [False] * 7],
    }
    assert {name: array.tolist() for name, array in batch.items()} == expected
    types = {name: array.dtype.name for name, array in batch.items()}
    assert types == {"tokens": "int32", "positions": "int32", "segment_ids": "int32", "loss_mask": "bool"}


def test_processes_share_the_rows_in_order():
    shares = [rows_of_process(12, process_index=p, process_count=4, setting="training.batch_size") for p in range(4)]
    assert [list(share) for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_rows_that_cannot_be_divided_are_refused():
    with pytest.raises(
        InputError, match=r"training\.batch_size=6 cannot be divided among 4 processes: make it a multiple"
    ):
        rows_of_process(6, process_index=0, process_count=4, setting="training.batch_size")
