import pytest

from atkd_jax.data import Example, shared_text
from atkd_jax.errors import InputError


@pytest.fixture(scope="module")
def tokenizers(make_tokenizer):
    """One that merges, and one that splits nothing but bytes."""
    merging, splitting = make_tokenizer(eos_token="<|endoftext|>"), make_tokenizer(eos_token="<|endoftext|>")
    splitting.backend_tokenizer.model = type(splitting.backend_tokenizer.model)(splitting.get_vocab(), [])
    return merging, splitting


EXAMPLES = [Example("a ", "b"), Example("", "no prompt"), Example("déjà ", "vu ¡"), Example("a ", "return " * 4)]


def chosen(tokenizers, *, length, overlong="truncate"):
    found = shared_text(EXAMPLES, tokenizers, template="plain", sequence_length=length, overlong=overlong)
    return [found.examples[number] for number in range(len(found.examples))], found


def test_only_what_all_read_whole_is_taken(tokenizers):
    # "return " * 4 is 28 bytes, and fewer tokens for the one that merges: both must have room.
    assert chosen(tokenizers, length=31)[0] == [EXAMPLES[0], EXAMPLES[2], EXAMPLES[3]]
    kept, found = chosen(tokenizers, length=30)
    assert kept == [EXAMPLES[0], EXAMPLES[2]]
    assert (found.left_out, found.response_bytes) == (2, 1 + 5)  # the second one's last letter has two bytes
    assert chosen(tokenizers[:1], length=30)[0] == [EXAMPLES[0], EXAMPLES[2], EXAMPLES[3]]


def test_what_is_too_long_stays_where_it_shall_be_refused(tokenizers):
    assert EXAMPLES[3] in chosen(tokenizers, length=30, overlong="error")[0]


def test_nothing_to_measure_is_refused(tokenizers):
    with pytest.raises(InputError, match=r"None of the 4 examples has a response .* within data.sequence_length=2,"):
        chosen(tokenizers, length=2)
