import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.generation.decoding import Ending, begin_writing, go_on_writing

VOCAB = 8


def decode_until_end(first, state, *, advance, choose, max_new_tokens, eos_ids, pad_id, stops=(), **more):
    """Writes to the end, at once or with a pause at each of `stops`."""
    ending = Ending(max_new_tokens, eos_ids, pad_id)
    writing = begin_writing(first, state, choose=choose, ending=ending, **more)
    for until in (*stops, max_new_tokens):
        writing = go_on_writing(writing, advance=advance, choose=choose, ending=ending, until=until)
    return writing.written, writing.lengths


def next_is_one_more(tokens):
    return jax.nn.one_hot((tokens + 1) % VOCAB, VOCAB)


def count_up(starts, *, room, ends, **more):
    """Rows that count upwards from `starts`; the state counts how often the model was asked."""

    def advance(tokens, step, asked):
        return next_is_one_more(tokens), asked + 1

    def choose(logits, step):
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    first = next_is_one_more(jnp.asarray(starts))
    return decode_until_end(
        first, 0, advance=advance, choose=choose, max_new_tokens=room, eos_ids=ends, pad_id=-1, **more
    )


def test_every_row_ends_by_itself_and_is_padded():
    written, lengths = count_up([0, 3, 5], room=4, ends=(6,))
    np.testing.assert_array_equal(written, [[1, 2, 3, 4], [4, 5, 6, -1], [6, -1, -1, -1]])
    np.testing.assert_array_equal(lengths, [4, 3, 1])


def test_any_of_the_eos_ids_ends_a_row():
    written, lengths = count_up([0, 4], room=5, ends=(2, 6))
    np.testing.assert_array_equal(written, [[1, 2, -1, -1, -1], [5, 6, -1, -1, -1]])
    np.testing.assert_array_equal(lengths, [2, 2])


def test_the_loop_stops_when_all_have_ended():
    steps = []

    def choose(logits, step):
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    decode_until_end(
        next_is_one_more(jnp.asarray([1, 2])),
        (),
        advance=lambda tokens, step, state: (next_is_one_more(tokens), state),
        choose=choose,
        max_new_tokens=100,
        eos_ids=(4,),
        pad_id=0,
    )
    jax.effects_barrier()
    assert sorted(steps) == [0, 1, 2]


def test_rows_that_only_fill_up_write_nothing_and_hold_nobody_up():
    written, lengths = count_up([0, 5], room=6, ends=(3,), is_wanted=jnp.asarray([True, False]))
    np.testing.assert_array_equal(written, [[1, 2, 3, -1, -1, -1], [-1] * 6])
    np.testing.assert_array_equal(lengths, [3, 0])


def test_without_eos_ids_all_the_room_is_used():
    _, lengths = count_up([0, 1], room=7, ends=())
    np.testing.assert_array_equal(lengths, [7, 7])


def test_the_step_given_to_advance_is_that_of_the_token_given():
    def advance(tokens, step, ok):
        return next_is_one_more(tokens), ok & jnp.all(tokens == step + 1)

    seen = []

    def choose(logits, step):
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def keep(tokens, step, ok):
        logits, ok = advance(tokens, step, ok)
        jax.debug.callback(lambda ok: seen.append(bool(ok)), ok)
        return logits, ok

    decode_until_end(
        next_is_one_more(jnp.asarray([0])),
        jnp.asarray(True),
        advance=keep,
        choose=choose,
        max_new_tokens=4,
        eos_ids=(),
        pad_id=0,
    )
    jax.effects_barrier()
    assert seen == [True] * 3


def test_a_pause_changes_nothing():
    for whole, paused in zip(
        count_up([0, 4], room=6, ends=(6,)), count_up([0, 4], room=6, ends=(6,), stops=(1, 2, 5)), strict=True
    ):
        np.testing.assert_array_equal(whole, paused)
