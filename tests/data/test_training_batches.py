import hashlib
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from atkd_jax.data.examples import Example
from atkd_jax.data.jsonl import JsonLines
from atkd_jax.data.training_batches import merge_states, training_batches
from atkd_jax.errors import InputError

SETTINGS = {
    "template": "chat",
    "sequence_length": 96,
    "batch_size": 4,
    "packing": True,
    "overlong": "truncate",
    "seed": 5,
}


@pytest.fixture
def make_batches(tokenizer, examples):
    """Makes batches of the small data set, and closes them at the end."""
    made = []

    def make(data=examples, **changes):
        made.append(training_batches(data, tokenizer, **SETTINGS | changes))
        return made[-1]

    yield make
    for batches in made:
        batches.close()


def take(batches, count):
    return [next(batches) for _ in range(count)]


def require_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name])


def responses(batches, tokenizer):
    """The text of the targets of every example in some batches."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            for segment in range(1, batch["segment_ids"][row].max() + 1):
                here = (batch["segment_ids"][row] == segment) & batch["loss_mask"][row]
                found.append(tokenizer.decode(batch["tokens"][row, here]))
    return found


def test_every_epoch_holds_each_example_once_in_another_order(make_batches, tokenizer, examples):
    size = len(examples)
    batches = make_batches(batch_size=1, packing=False)
    epochs = [responses(take(batches, size), tokenizer) for _ in range(3)]
    expected = sorted(example.response + tokenizer.eos_token for example in examples)
    assert [sorted(epoch) for epoch in epochs] == [expected] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_neighbouring_seeds_share_no_epoch(make_batches, tokenizer, examples):
    orders = set()
    for seed in range(3):
        batches = make_batches(batch_size=1, packing=False, seed=seed)
        orders |= {tuple(responses(take(batches, len(examples)), tokenizer)) for _ in range(3)}
    assert len(orders) == 9


def test_a_seed_always_gives_the_same_batches(make_batches):
    require_equal(take(make_batches(), 9), take(make_batches(), 9))


def test_packing_loses_no_example_over_the_ends_of_epochs(make_batches, tokenizer, examples):
    batches = make_batches()
    handed_out = responses(take(batches, 60), tokenizer)
    assert batches.epoch == len(handed_out) / len(examples) > 3
    counts = [handed_out.count(example.response + tokenizer.eos_token) for example in examples]
    waiting = sum(len(row) for state in batches.get_state()["rows"] for row in state["open"])
    assert len(handed_out) + waiting == sum(row["read"] for row in batches.get_state()["rows"])
    assert min(counts) > 0


@pytest.mark.parametrize("handed_out", [0, 1, 7, 40])
@pytest.mark.parametrize("packing", [True, False])
def test_a_saved_position_goes_on_with_the_next_batch(make_batches, handed_out, packing):
    first = make_batches(packing=packing)
    take(first, handed_out)
    state = json.loads(json.dumps(first.get_state()))
    counts, epoch = first.counts, first.epoch
    expected = take(first, 12)
    second = make_batches(packing=packing)
    take(second, 3)
    second.set_state(state)
    assert (second.counts, second.epoch) == (counts, epoch)
    require_equal(take(second, 12), expected)
    assert second.get_state() == first.get_state()


def test_the_position_is_that_of_the_batches_handed_out_and_not_of_those_made_ahead(make_batches):
    batches = make_batches()
    take(batches, 2)
    state = batches.get_state()
    time.sleep(0.3)
    assert batches.get_state() == state
    assert batches.counts.rows == 2 * SETTINGS["batch_size"]


def test_a_saved_position_does_not_move_with_the_batches(make_batches):
    batches = make_batches()
    take(batches, 2)
    state = batches.get_state()
    before = json.dumps(state)
    take(batches, 5)
    assert json.dumps(state) == before


def test_another_number_of_processes_goes_on_with_the_same_global_batches(make_batches):
    whole = make_batches()
    take(whole, 6)
    expected = take(whole, 10)
    halves = [make_batches(process_index=p, process_count=2) for p in range(2)]
    for half in halves:
        take(half, 6)
    state = json.loads(json.dumps(merge_states([half.get_state() for half in reversed(halves)])))
    for processes in (1, 2, 4):
        parts = [make_batches(process_index=p, process_count=processes) for p in range(processes)]
        for part in parts:
            part.set_state(state)
        joined = [
            {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            for batches in zip(*(take(part, 10) for part in parts), strict=True)
        ]
        require_equal(joined, expected)


RESUME = """
import hashlib, json, pathlib, sys
from transformers import PreTrainedTokenizerFast
from atkd_jax.data import training_batches
from atkd_jax.data.jsonl import JsonLines
folder = pathlib.Path(sys.argv[1])
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
settings = json.loads((folder / "settings.json").read_text())
batches = training_batches(JsonLines(folder / "data.jsonl"), tokenizer, **settings)
batches.set_state(json.loads((folder / "state.json").read_text()))
for _ in range(20):
    digest = hashlib.sha256()
    for name, array in sorted(next(batches).items()):
        digest.update(name.encode() + array.tobytes())
    print(digest.hexdigest())
"""


def test_a_fresh_process_goes_on_with_the_next_batch(make_batches, tokenizer, examples, write_jsonl, tmp_path):
    path = write_jsonl(*({"prompt": example.prompt, "response": example.response} for example in examples))
    batches = make_batches(JsonLines(path))
    take(batches, 11)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "state.json").write_text(json.dumps(batches.get_state()))
    command = [sys.executable, "-W", "error", "-c", RESUME, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = []
    for batch in take(batches, 20):
        digest = hashlib.sha256()
        for name, array in sorted(batch.items()):
            digest.update(name.encode() + array.tobytes())
        expected.append(digest.hexdigest())
    assert run.stdout.split() == expected
    assert run.stderr == ""  # nothing is complained of at the interpreter's exit either


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, r"\(seed was 5 and is 6\)"),
        ({"batch_size": 8, "packing": False}, r"\(batch_size was 4 and is 8, packing was True and is False\)"),
        ({"data": [Example("other", "data")] * 61}, r"\(checksum was \d+ and is \d+\)"),
        ({"data": [Example("a", "b")]}, r"\(examples was 61 and is 1\)"),
    ],
)
def test_a_position_of_other_data_settings_is_refused(make_batches, changes, message):
    state = make_batches().get_state()
    beginning = r"The data position was saved with other data, tokenizer or settings "
    with pytest.raises(InputError, match=rf"{beginning}{message}: set them as they were, or start anew"):
        make_batches(**changes).set_state(state)


def test_a_position_without_this_processs_rows_is_refused(make_batches):
    state = make_batches(process_index=0, process_count=2).get_state()
    with pytest.raises(
        InputError, match=r"lacks the rows \[2, 3\] of the global batch: join the states of all processes"
    ):
        make_batches(process_index=1, process_count=2).set_state(state)


def test_positions_that_do_not_belong_together_are_not_merged(make_batches):
    one = make_batches(process_index=0, process_count=2)
    other = make_batches(process_index=1, process_count=2)
    take(one, 1)
    with pytest.raises(InputError, match="were saved at different steps: they are not of one checkpoint"):
        merge_states([one.get_state(), other.get_state()])
    third = make_batches(process_index=1, process_count=2, seed=9)
    with pytest.raises(InputError, match="were saved with different settings: they are not of one run"):
        merge_states([one.get_state(), third.get_state()])


def test_an_error_while_a_batch_is_made_comes_in_its_turn_and_stays(make_batches):
    class Faulty(list):
        reads = 0

        def __getitem__(self, index):
            Faulty.reads += 1
            if Faulty.reads > 60:
                raise InputError("the file changed")
            return super().__getitem__(index)

    batches = make_batches(Faulty(Example(f"number {number}", "dog") for number in range(500)), packing=False)
    count = 0
    with pytest.raises(InputError, match="the file changed"):
        for count, _ in enumerate(batches, start=1):  # noqa: B007  counts until it fails
            pass
    assert 5 < count < 15
    assert batches.counts.rows == count * SETTINGS["batch_size"]
    with pytest.raises(InputError, match="the file changed"):
        next(batches)


def test_batches_are_made_ahead_in_a_thread_that_ends_with_close(make_batches):
    before = threading.active_count()
    batches = make_batches()
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
    batches.close()
    with pytest.raises(ValueError, match="These batches were closed: make new ones with training_batches"):
        next(batches)


def test_counts_tell_what_was_dropped_truncated_and_filled(make_batches, tokenizer, examples):
    batches = make_batches(sequence_length=48)
    made = take(batches, 30)
    counts = batches.counts
    assert counts.rows == 120
    assert counts.examples == len(responses(made, tokenizer))
    assert counts.tokens == sum((batch["segment_ids"] > 0).sum() for batch in made)
    assert counts.target_tokens == sum(batch["loss_mask"].sum() for batch in made)
    assert counts.truncated > 0
    assert counts.dropped == 0
    assert batches.fill == counts.tokens / (120 * 48)
    dropping = make_batches(sequence_length=48, overlong="drop")
    take(dropping, 30)
    assert dropping.counts.dropped > 0
    assert dropping.counts.truncated == 0


def test_every_row_has_a_target(make_batches):
    for packing in (True, False):
        for batch in take(make_batches(packing=packing, sequence_length=40), 40):
            assert batch["loss_mask"].any(axis=1).all()
            assert not batch["loss_mask"][:, 0].any()


def test_a_data_set_of_one_example_will_do(make_batches):
    batches = make_batches([Example("the fox", "jumps")])
    assert next(batches)["segment_ids"].max(axis=1).min() > 1
