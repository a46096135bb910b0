import pytest

from atkd_jax.data import Example, training_batches
from atkd_jax.sharding import RowShare
from atkd_jax.training import shared_batches
from atkd_jax.training.shared_batches import SharedBatches


@pytest.fixture
def make(tiny_tokenizer):
    """Makes the batches of process `index` of two."""
    made = []
    examples = [Example(f"Add {number}.", f"return x + {number}") for number in range(30)]

    def make(share, count=2):
        batches = training_batches(
            examples,
            tiny_tokenizer,
            template="chat",
            sequence_length=64,
            batch_size=4,
            packing=True,
            overlong="truncate",
            seed=0,
            process_index=share.index,
            process_count=count,
        )
        made.append(SharedBatches(batches, share, example_count=len(examples), sequence_length=64))
        return made[-1]

    yield make
    for batches in made:
        batches.close()


def test_the_position_is_that_of_all_processes_and_each_row_stands_there_once(make, monkeypatch):
    # Three processes, of which the last two hold the same rows.
    parts = [make(RowShare(0, 2, True)), make(RowShare(1, 2, True)), make(RowShare(1, 2, False))]
    for part in parts:
        for _ in range(3):
            next(part)
    values = []
    monkeypatch.setattr(shared_batches, "gathered", lambda value: values.append(value) or [value])
    for part in parts[:2]:
        part.get_state()
    monkeypatch.setattr(shared_batches, "gathered", lambda value: [*values, value])
    state = parts[2].get_state()
    assert [row["row"] for row in state["rows"]] == [0, 1, 2, 3]
    whole = make(RowShare(0, 1, True), count=1)
    for _ in range(3):
        next(whole)
    monkeypatch.setattr(shared_batches, "gathered", lambda value: [value])
    assert whole.get_state() == state
    numbers = {name: sum(part.numbers[name] for part in parts) for name in whole.numbers}
    assert numbers == whole.numbers
    assert parts[0].metrics(numbers) == whole.metrics(whole.numbers)
    assert set(parts[2].numbers.values()) == {0}


def test_the_log_tells_epochs_examples_and_fill(make):
    batches = make(RowShare(0, 1, True), count=1)
    numbers = {"examples": 20, "dropped": 10, "truncated": 3, "rows": 4, "tokens": 128, "target_tokens": 9}
    assert batches.metrics({**numbers, "SIGTERM": 1}) == {
        "data/epoch": 1.0,
        "data/examples": 20.0,
        "data/truncated_examples": 3.0,
        "data/dropped_examples": 10.0,
        "data/fill": 0.5,
    }
