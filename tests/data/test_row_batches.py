import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.epochs import ShuffledEpochs
from atkd_jax.data.row_batches import RowBatches

SEQUENCE_LENGTH = 24


def example(number, prompt_tokens, response_tokens):
    tokens = np.arange(1000 * number, 1000 * number + prompt_tokens + response_tokens, dtype=np.int32)
    return EncodedExample(tokens, np.arange(len(tokens)) >= prompt_tokens, False)


EXAMPLE_LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=30)


def batches_of(examples, *, rows, row_count, packing=True):
    return iter(
        RowBatches(
            ShuffledEpochs(grain.MapDataset.source(examples), seed=3),
            rows=rows,
            row_count=row_count,
            sequence_length=SEQUENCE_LENGTH,
            packing=packing,
            padding_id=7,
        )
    )


@given(lengths=EXAMPLE_LENGTHS, row_count=st.integers(1, 4), packing=st.booleans())
def test_a_batch_holds_whole_examples_in_contiguous_segments(lengths, row_count, packing):
    examples = [example(number, *pair) for number, pair in enumerate(lengths)]
    batches = batches_of(examples, rows=range(row_count), row_count=row_count, packing=packing)
    for _ in range(6):
        batch = next(batches)
        targets = 0
        for row in range(row_count):
            segment_ids = batch["segment_ids"][row]
            count = segment_ids.max()
            # Contiguous, in order, from the left, with the padding at the end.
            lengths_of_segments = [int((segment_ids == segment).sum()) for segment in range(1, count + 1)]
            expected = np.repeat([*range(1, count + 1), 0], [*lengths_of_segments, (segment_ids == 0).sum()])
            np.testing.assert_array_equal(segment_ids, expected)
            assert count == 1 or packing
            for segment in range(1, count + 1):
                here = segment_ids == segment
                tokens = batch["tokens"][row, here]
                whole = examples[tokens[0] // 1000]
                np.testing.assert_array_equal(tokens, whole.tokens)
                np.testing.assert_array_equal(batch["positions"][row, here], np.arange(len(tokens)))
                np.testing.assert_array_equal(batch["loss_mask"][row, here], whole.loss_mask)
                targets += lengths[tokens[0] // 1000][1]
            padding = segment_ids == 0
            assert (batch["tokens"][row, padding] == 7).all()
            assert not batch["positions"][row, padding].any()
        assert batch["loss_mask"].sum() == targets


@given(lengths=EXAMPLE_LENGTHS, processes=st.sampled_from([1, 2, 4]))
def test_the_global_batch_does_not_depend_on_the_number_of_processes(lengths, processes):
    examples = [example(number, *pair) for number, pair in enumerate(lengths)]
    whole = batches_of(examples, rows=range(4), row_count=4)
    share = 4 // processes
    parts = [batches_of(examples, rows=range(p * share, (p + 1) * share), row_count=4) for p in range(processes)]
    for _ in range(5):
        expected = next(whole)
        batches = [next(part) for part in parts]
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), array)


def test_an_error_comes_again_until_the_state_is_set():
    class Faulty:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index == 5:
                raise OSError("the disk is gone")
            return example(index, 3, 3)

    batches = iter(
        RowBatches(
            grain.MapDataset.source(Faulty()).repeat(),
            rows=range(2),
            row_count=2,
            sequence_length=SEQUENCE_LENGTH,
            packing=False,
            padding_id=0,
        )
    )
    next(batches)
    state = batches.get_state()
    second = next(batches)
    for _ in range(3):
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
    batches.set_state(state)
    np.testing.assert_array_equal(next(batches)["tokens"], second["tokens"])


def test_two_iterators_of_one_data_set_stand_apart():
    data_set = RowBatches(
        grain.MapDataset.source([example(number, 3, 3) for number in range(9)]).repeat(),
        rows=range(2),
        row_count=2,
        sequence_length=SEQUENCE_LENGTH,
        packing=True,
        padding_id=0,
    )
    one, other = iter(data_set), iter(data_set)
    first = next(one)
    next(one)
    np.testing.assert_array_equal(next(other)["tokens"], first["tokens"])
