import numpy as np
import pytest

from atkd_jax.data import encoding
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.examples import Example
from atkd_jax.data.templates import Template
from atkd_jax.errors import InputError


class Reads:
    """Examples that count how often they are read."""

    def __init__(self, examples):
        self.examples = examples
        self.count = 0

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.count += 1
        return self.examples[index]


def encode(examples, tokenizer, *, sequence_length, overlong, template="plain"):
    form = Template(template, tokenizer)
    return EncodedExamples(examples, template=form, sequence_length=sequence_length, overlong=overlong)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_response_and_closing_token_are_targets_and_the_prompt_is_not(tokenizer, template):
    encoded = encode(
        [Example("the fox", "jumps over")], tokenizer, sequence_length=64, overlong="error", template=template
    )
    tokens, loss_mask = encoded[0].tokens, encoded[0].loss_mask
    response = [*tokenizer.encode("jumps over"), tokenizer.eos_token_id]
    assert tokens.dtype == np.int32
    assert tokens[loss_mask].tolist() == response
    assert loss_mask.tolist() == [False] * (len(tokens) - len(response)) + [True] * len(response)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # and still EOS is learned


def test_the_first_token_of_all_is_no_target(tokenizer):
    encoded = encode([Example("", "the fox")], tokenizer, sequence_length=64, overlong="error")
    assert encoded[0].loss_mask.tolist() == [False] + [True] * (len(encoded[0].tokens) - 1)


def test_truncating_cuts_the_end_off_and_says_so(tokenizer):
    example = Example("the fox", "jumps over the lazy dog")
    whole = encode([example], tokenizer, sequence_length=64, overlong="truncate")[0]
    length = len(whole.tokens) - 2
    cut = encode([example], tokenizer, sequence_length=length, overlong="truncate")[0]
    assert not whole.truncated
    assert cut.truncated
    np.testing.assert_array_equal(cut.tokens, whole.tokens[:length])
    np.testing.assert_array_equal(cut.loss_mask, whole.loss_mask[:length])
    assert tokenizer.eos_token_id not in cut.tokens


def test_dropping_leaves_out_what_is_one_token_too_long(tokenizer):
    short, long = Example("a", "dog"), Example("a", "dog and dog and dog")
    length = len(encode([long], tokenizer, sequence_length=64, overlong="error")[0].tokens)
    assert encode([short, long], tokenizer, sequence_length=length, overlong="drop")[1] is not None
    assert encode([short, long], tokenizer, sequence_length=length - 1, overlong="drop")[1] is None


def test_a_prompt_that_fills_the_row_leaves_nothing_to_learn(tokenizer):
    examples = [Example("a", "dog"), Example("the quick brown fox jumps over the lazy dog", "and")]
    encoded = encode(examples, tokenizer, sequence_length=6, overlong="truncate")
    assert encoded[0] is not None
    assert encoded[1] is None


def test_an_error_names_the_example_and_is_found_at_the_start(tokenizer):
    examples = [Example("a", "dog")] * 9 + [Example("a", "dog " * 30)]
    with pytest.raises(
        InputError,
        match=r"Example 9 has \d+ tokens \(1 prompt, \d+ response\), but a row holds data\.sequence_length=16: raise "
        r"it, or set data\.overlong to 'truncate' or 'drop'\.",
    ):
        encode(examples, tokenizer, sequence_length=16, overlong="error")


@pytest.mark.parametrize("overlong", ["truncate", "drop"])
def test_no_usable_example_at_all_is_an_error(tokenizer, overlong):
    examples = [Example("the quick brown fox jumps over the lazy dog", "and")] * 3
    with pytest.raises(
        InputError, match=r"None of the 3 examples has a token to learn from within data\.sequence_length=4"
    ):
        encode(examples, tokenizer, sequence_length=4, overlong=overlong)


def test_each_example_is_read_and_encoded_once_while_the_cache_lasts(tokenizer, monkeypatch):
    reads = Reads([Example(f"fox {number}", "dog") for number in range(20)])
    encoded = encode(reads, tokenizer, sequence_length=16, overlong="truncate")
    assert reads.count == 1  # the look whether they are of use
    first = [example.tokens.tolist() for example in (encoded[index] for index in range(20))]
    assert reads.count == 20
    assert [encoded[index].tokens.tolist() for index in range(20)] == first
    assert reads.count == 20

    monkeypatch.setattr(encoding, "CACHE_BYTES", 0)
    uncached = encode(reads, tokenizer, sequence_length=16, overlong="truncate")
    assert [uncached[index].tokens.tolist() for index in range(20)] == first
    assert [uncached[index].tokens.tolist() for index in range(20)] == first
    assert reads.count == 20 + 1 + 40


def test_unknown_ways_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"data\.overlong must be 'truncate', 'drop' or 'error', but is 'wrap'\."):
        encode([Example("a", "b")], tokenizer, sequence_length=16, overlong="wrap")


def test_of_a_response_that_breaks_off_no_end_is_learned(tokenizer):
    examples = [Example("the fox", "jumps over"), Example("the fox", "jumps over", ended=False)]
    encoded = encode(examples, tokenizer, sequence_length=64, overlong="error")
    whole, part = encoded[0], encoded[1]
    assert whole.tokens[-1] == tokenizer.eos_token_id
    np.testing.assert_array_equal(part.tokens, whole.tokens[:-1])
    np.testing.assert_array_equal(part.loss_mask, whole.loss_mask[:-1])
