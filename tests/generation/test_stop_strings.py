import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.errors import InputError
from atkd_jax.generation.stop_strings import cut_at, stop_at

WORDS = ["a", "ab", "ba", "b", "\n"]


def decode(tokens):
    return "".join(WORDS[token] for token in tokens)


@given(
    tokens=st.lists(st.integers(0, 4), max_size=12),
    strings=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3),
)
def test_the_end_is_the_first_token_that_completes_a_string(tokens, strings):
    complete = [
        count for count in range(len(tokens) + 1) if any(string in decode(tokens[:count]) for string in strings)
    ]
    assert stop_at(strings, decode)(tokens) == (complete[0] if complete else None)


def test_text_is_cut_before_the_first_string_in_it():
    assert cut_at("one two three", ["three", "two"]) == "one "
    assert cut_at("one", ["two"]) == "one"
    assert cut_at("one", []) == "one"


def test_an_empty_string_is_refused():
    with pytest.raises(InputError, match=r"^generate: a stop string must not be empty, got ''"):
        stop_at(["\n", ""], decode)
