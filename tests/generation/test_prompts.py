import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.errors import InputError
from atkd_jax.generation.prompts import bucket_length, check_positions, check_prompts, left_pad


def test_buckets_are_few():
    assert sorted({bucket_length(length) for length in range(1, 257)}) == [16, 24, 32, 48, 64, 96, 128, 192, 256]


@given(st.integers(1, 100_000))
def test_a_bucket_holds_its_prompt_with_little_to_spare(length):
    bucket = bucket_length(length)
    assert length <= bucket
    assert bucket == 16 or bucket <= 1.5 * length


def test_prompts_stand_at_the_right():
    tokens, present = left_pad([[1, 2, 3], [4]], rows=3, pad_id=9)
    assert tokens.shape == present.shape == (3, 16)
    np.testing.assert_array_equal(tokens[:, -4:], [[9, 1, 2, 3], [9, 9, 9, 4], [9, 9, 9, 9]])
    np.testing.assert_array_equal(present.sum(axis=1), [3, 1, 1])
    assert present[:, -1].all()


def test_negative_ids_are_refused():
    with pytest.raises(InputError, match=r"token ids must be from 0 to 9, but prompt 0 \(from 0\) has -1 to 3"):
        check_prompts([[3, -1]], vocab_size=10)


def test_the_longest_prompt_and_its_answer_must_fit_learned_positions():
    prompts = [[1] * 5, [1] * 780, [1] * 9]
    check_positions(prompts, max_new_tokens=244, learned_positions=1024)
    check_positions(prompts, max_new_tokens=10**6, learned_positions=None)
    sentence = r"at most the 1024 tokens .* but prompt 1 \(from 0\) has 780 and max_new_tokens is 245; shorten"
    with pytest.raises(InputError, match=sentence):
        check_positions(prompts, max_new_tokens=245, learned_positions=1024)
