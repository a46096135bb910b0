import pytest

from atkd_jax.data import Template
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.filled_rows import filled_rows


@pytest.fixture(scope="module")
def encoded(tokenizer, examples):
    template = Template("chat", tokenizer)
    return EncodedExamples(examples, template=template, sequence_length=50, overlong="drop")


@pytest.mark.parametrize("packing", [True, False])
def test_rows_follow_one_another_without_a_gap(encoded, packing):
    done, seen = 0, []
    while done < len(encoded):
        rows, count = filled_rows(encoded, range(done, len(encoded)), row_count=3, sequence_length=50, packing=packing)
        assert count > 0
        assert all(sum(len(example.tokens) for example in row) <= 50 for row in rows)
        assert packing or all(len(row) <= 1 for row in rows)
        assert sorted(e.number for row in rows for e in row) == [
            n for n in range(done, done + count) if encoded[n] is not None
        ]
        seen += [example.number for row in rows for example in row]
        done += count
    dropped = [number for number in range(len(encoded)) if encoded[number] is None]
    assert dropped
    assert sorted(seen + dropped) == list(range(len(encoded)))
