import numpy as np
import pytest

from atkd_jax.data.evaluation_batches import evaluation_batches
from atkd_jax.data.examples import Example
from atkd_jax.errors import InputError

SETTINGS = {"template": "chat", "sequence_length": 96, "batch_size": 4, "packing": True, "overlong": "truncate"}


def examples_in(batches):
    return [
        batch["tokens"][row, batch["segment_ids"][row] == segment]
        for batch in batches
        for row in range(len(batch["tokens"]))
        for segment in range(1, batch["segment_ids"][row].max() + 1)
    ]


@pytest.mark.parametrize("packing", [True, False])
def test_each_example_comes_once(tokenizer, examples, packing):
    batches = evaluation_batches(examples, tokenizer, **SETTINGS | {"packing": packing})
    made = list(batches)
    texts = sorted(tokenizer.decode(tokens) for tokens in examples_in(made))
    expected = sorted(
        f"<|im_start|>user\n{example.prompt}<|im_end|>\n<|im_start|>assistant\n{example.response}<|im_end|>"
        for example in examples
    )
    assert texts == expected
    assert all(batch["tokens"].shape == (4, 96) for batch in made)
    assert batches.counts.examples == len(examples)
    assert batches.counts.rows == 4 * len(made)
    assert batches.fill == sum((batch["segment_ids"] > 0).sum() for batch in made) / (len(made) * 4 * 96)


def test_examples_keep_their_order_without_packing(tokenizer, examples):
    batches = evaluation_batches(examples, tokenizer, **SETTINGS | {"packing": False})
    prompts = [tokenizer.decode(tokens).split("\n")[1] for tokens in examples_in(batches)]
    assert prompts == [f"{example.prompt}<|im_end|>" for example in examples]


def test_the_last_batch_ends_in_empty_rows(tokenizer, examples):
    *_, last = evaluation_batches(examples[:6], tokenizer, **SETTINGS | {"packing": False})
    assert (last["segment_ids"].max(axis=1) == [1, 1, 0, 0]).all()
    assert not last["loss_mask"][2:].any()
    assert (last["tokens"][2:] == tokenizer.pad_token_id).all()


def test_a_second_reading_gives_the_same(tokenizer, examples):
    batches = evaluation_batches(examples, tokenizer, **SETTINGS)
    first, counts = list(batches), batches.counts
    for batch, again in zip(batches, first, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, again[name])
    assert batches.counts == counts


def test_the_batches_do_not_depend_on_the_number_of_processes(tokenizer, examples):
    whole = list(evaluation_batches(examples, tokenizer, **SETTINGS))
    parts = [evaluation_batches(examples, tokenizer, **SETTINGS, process_index=p, process_count=2) for p in range(2)]
    for expected, *halves in zip(whole, *parts, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), array)


def test_what_is_left_out_is_counted(tokenizer, examples):
    batches = evaluation_batches(examples, tokenizer, **SETTINGS | {"sequence_length": 48, "overlong": "drop"})
    list(batches)
    assert batches.counts.dropped > 0
    assert batches.counts.examples + batches.counts.dropped == len(examples)
    cut = evaluation_batches(examples, tokenizer, **SETTINGS | {"sequence_length": 48})
    list(cut)
    assert cut.counts.truncated == batches.counts.dropped


def test_nothing_to_evaluate_is_an_error(tokenizer):
    with pytest.raises(InputError, match="None of the 1 examples has a token to learn from"):
        evaluation_batches([Example("a " * 99, "b")], tokenizer, **SETTINGS)
