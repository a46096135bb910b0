import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.data.splits import split_range
from atkd_jax.errors import InputError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", range(200)),
        ("train[:90%]", range(180)),
        ("train[90%:]", range(180, 200)),
        ("train[10:20]", range(10, 20)),
        ("train[-10%:]", range(180, 200)),
        ("train[-5:]", range(195, 200)),
        ("train[:]", range(200)),
        ("train[:1000]", range(200)),
    ],
)
def test_slices_read_as_tfds_reads_them(spec, expected):
    assert split_range(spec, {"train": 200}, source="f") == ("train", expected)


@given(length=st.integers(0, 10_000), percent=st.integers(0, 100))
def test_two_shares_part_the_split(length, percent):
    _, head = split_range(f"train[:{percent}%]", {"train": length}, source="f")
    _, tail = split_range(f"train[{percent}%:]", {"train": length}, source="f")
    assert [*head, *tail] == list(range(length))


def test_an_unknown_split_names_those_there():
    with pytest.raises(
        InputError,
        match=r"^data\.jsonl has no split 'test': there is 'train', or a slice of it such as 'train\[90%:\]'\.$",
    ):
        split_range("test[:5]", {"train": 3}, source="data.jsonl")


def test_a_malformed_split_shows_the_form():
    with pytest.raises(InputError, match=r"The split 'train\[5' of f is not understood: write a name or a slice of it"):
        split_range("train[5", {"train": 3}, source="f")
