import numpy as np
import pytest

from atkd_jax.data import Example, training_batches
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.pairing import pair_tokens
from atkd_jax.data.templates import Template
from atkd_jax.errors import InputError


@pytest.fixture(scope="module")
def teacher_tokenizer(make_tokenizer):
    """One that splits nothing but bytes: more tokens for the same text, other ids."""
    tokenizer = make_tokenizer(eos_token="<|endoftext|>", bos_token="<s>")
    tokenizer.backend_tokenizer.model = type(tokenizer.backend_tokenizer.model)(tokenizer.get_vocab(), [])
    return tokenizer


@pytest.mark.parametrize(
    ("teacher_prompt", "teacher_response", "prompt_tokens", "length", "places"),
    [
        ([1, 2], [3, 4, 5], 1, 4, [0, 2, 3, 4]),  # as many tokens in both responses
        ([1, 2], [3], 1, 4, [0, 2, 0, 0]),  # the teacher's ends first
        ([1, 2], [3, 4, 5, 6], 1, 3, [0, 2, 3]),  # the student's ends first
        ([], [3, 4, 5], 2, 5, [0, 0, 0, 1, 2]),  # no state of the teacher's comes before its first token
        ([1, 2], [3, 4, 5], 0, 3, [0, 3, 4]),  # nor of the student's: its second token goes with the teacher's second
        ([1, 2, 3, 4, 5, 6], [7, 8], 1, 3, [0, 0, 0]),  # cut off
    ],
)
def test_the_nth_token_of_one_response_goes_with_the_nth_of_the_other(
    teacher_prompt, teacher_response, prompt_tokens, length, places
):
    loss_mask = np.arange(length) >= max(prompt_tokens, 1)
    pair = pair_tokens(
        teacher_prompt, teacher_response, prompt_tokens=prompt_tokens, loss_mask=loss_mask, sequence_length=6
    )
    assert pair.places.tolist() == places
    assert pair.tokens.tolist() == (teacher_prompt + teacher_response)[:6]


@pytest.mark.parametrize("packing", [True, False])
def test_rows_hold_the_same_examples_in_both_tokens(examples, tokenizer, teacher_tokenizer, packing):
    batches = training_batches(
        examples,
        tokenizer,
        template="plain",
        sequence_length=96,
        batch_size=2,
        packing=packing,
        overlong="drop",
        seed=1,
        teacher_tokenizer=teacher_tokenizer,
    )
    batch = next(batches)
    batches.close()
    pairs = 0
    for row in range(2):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            own, theirs = (
                batch[f"{who}tokens"][row][batch[f"{who}segment_ids"][row] == segment] for who in ("", "teacher_")
            )
            text = tokenizer.decode(own, skip_special_tokens=True)
            assert text == teacher_tokenizer.decode(theirs, skip_special_tokens=True)
            assert len(theirs) > len(own)
        index, mask = batch["teacher_index"][row], batch["loss_mask"][row]
        chosen = np.flatnonzero(index)
        assert mask[chosen].all()
        assert (batch["teacher_segment_ids"][row][index[chosen]] == batch["segment_ids"][row][chosen]).all()
        is_first = np.diff(batch["segment_ids"][row][chosen], prepend=0) != 0
        assert (np.diff(index[chosen])[~is_first[1:]] == 1).all()
        # The first target of each example is the first character of the same word.
        for place in chosen[is_first]:
            first = teacher_tokenizer.decode(batch["teacher_tokens"][row][index[place]])
            assert tokenizer.decode(batch["tokens"][row][place]).startswith(first)
        pairs += len(chosen)
    assert pairs > 10


def test_an_example_is_as_long_as_the_longer_of_the_two(tokenizer, teacher_tokenizer):
    forms = {
        "template": Template("plain", tokenizer),
        "teacher_template": Template("plain", teacher_tokenizer),
    }
    example = Example("the quick", " brown fox")
    encoded = EncodedExamples([example], sequence_length=40, overlong="error", **forms)[0]
    assert encoded is not None
    assert encoded.teacher is not None
    assert encoded.length == len(encoded.teacher.tokens) == len("the quick brown fox") + 1
    with pytest.raises(InputError, match=r"Example 0 has 20 tokens \(9 prompt, 11 response\)"):
        EncodedExamples([example], sequence_length=12, overlong="error", **forms)
    cut = EncodedExamples([example], sequence_length=12, overlong="truncate", **forms)[0]
    assert cut is not None
    assert cut.truncated
    with pytest.raises(InputError, match="None of the 1 examples has a token to learn from"):
        EncodedExamples([example], sequence_length=9, overlong="truncate", **forms)
