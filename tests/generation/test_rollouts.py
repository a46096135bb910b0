import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.generation import (
    Ending,
    Plan,
    RolloutWriter,
    Text,
    generate,
    make_knobs,
    prompts_of_rows,
    with_texts,
)
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.objectives import next_token_targets

CONFIG = DecoderConfig(
    vocab_size=23, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=16, max_position=96
)
PAD = 22


@pytest.fixture
def batch():
    """Two rows of a prompt and a response, and an empty one."""
    lengths, prompts = np.array([[7], [5], [0]]), np.array([[3], [4], [0]])
    here = np.arange(10)[None]
    present = here < lengths
    return {
        "tokens": np.where(present, here + 1, PAD).astype(np.int32),
        "positions": np.where(present, here, 0).astype(np.int32),
        "segment_ids": present.astype(np.int32),
        "loss_mask": present & (here >= prompts),
    }


def test_a_prompt_ends_before_the_first_token_that_counts(batch):
    assert prompts_of_rows(batch) == [[1, 2, 3], [1, 2, 3, 4], []]


def test_what_counts_of_a_written_text_is_the_first_token_to_the_closing_one(batch):
    rolled = with_texts(batch, {1: Text([1, 2, 3, 4], [9, 8, 0])}, padding_id=PAD)
    np.testing.assert_array_equal(rolled["tokens"][1], [1, 2, 3, 4, 9, 8, 0, PAD, PAD, PAD])
    np.testing.assert_array_equal(rolled["segment_ids"][1], [1] * 7 + [0] * 3)
    np.testing.assert_array_equal(rolled["positions"][1], [0, 1, 2, 3, 4, 5, 6, 0, 0, 0])
    targets, mask = next_token_targets(**{name: rolled[name] for name in ("tokens", "segment_ids", "loss_mask")})
    # Position 3 holds the prompt's last token and predicts the first that was written; position 6 holds the EOS.
    np.testing.assert_array_equal(mask[1], [False] * 3 + [True] * 3 + [False] * 4)
    np.testing.assert_array_equal(targets[1][mask[1]], [9, 8, 0])
    np.testing.assert_array_equal(rolled.pop("is_written"), np.array([[False], [True], [False]]).repeat(10, axis=1))
    for name, array in rolled.items():
        np.testing.assert_array_equal(array[[0, 2]], batch[name][[0, 2]])
        assert array.dtype == batch[name].dtype


def test_a_text_that_is_longer_than_a_row_is_cut_off(batch):
    rolled = with_texts(batch, {0: Text([5, 6], list(range(20)))}, padding_id=PAD)
    np.testing.assert_array_equal(rolled["tokens"][0], [5, 6, *range(8)])
    np.testing.assert_array_equal(rolled["loss_mask"][0], [False] * 2 + [True] * 8)


def test_answers_are_those_of_generate_and_sizes_are_few():
    graphdef, params = nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    plan = Plan((graphdef,), Ending(6, (3,), PAD), is_greedy=False, top_k=None, unstack=False)
    writer = RolloutWriter(plan, knobs=make_knobs(1.0, None), most_rows=4, mesh=None)
    key = jax.random.key(7)
    for numbers in ([5], [2, 9], [2, 9, 4]):
        prompts = [[1 + number] * number for number in numbers]
        answers = writer((params,), prompts, key, numbers)
        settings = {"max_new_tokens": 6, "eos_ids": (3,), "pad_id": PAD, "temperature": 1.0}
        assert answers == generate(graphdef, params, prompts, **settings, key=key, numbers=numbers)
    assert writer.compilations == 2
    compiled = []

    def hear(event, *_, **__):
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        writer((params,), [[1], [2, 3]], key, [0, 1])
        # Three and four rows are of one size, and nothing else is compiled for the fourth.
        writer((params,), [[1], [2, 3], [4], [5]], key, [0, 1, 2, 3])
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    assert not compiled
    assert writer.compilations == 2


def test_a_prompt_and_its_answer_must_fit_the_positions_of_each_who_writes():
    config = dataclasses.replace(CONFIG, positions="learned", max_position=12)
    splits = [nnx.split(Decoder(own, rngs=nnx.Rngs(0))) for own in (CONFIG, config)]
    graphdefs, params = zip(*splits, strict=True)
    plan = Plan(graphdefs, Ending(6, (), PAD), is_greedy=False, top_k=None, teacher_weight=0.5, unstack=False)
    writer = RolloutWriter(plan, knobs=make_knobs(1.0, None), most_rows=2, mesh=None)
    own = jax.random.key(0), [0]
    assert len(writer(params, [[1] * 6], *own)[0]) == 6
    with pytest.raises(InputError, match=r"the 12 tokens .* prompt 0 \(from 0\) has 7 and max_new_tokens is 6"):
        writer(params, [[1] * 7], *own)
