import re

import pytest

from atkd_jax.data.examples import Example, example_from_record, spaced_examples
from atkd_jax.errors import InputError


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "p ", "response": "r"}, Example("p ", "r")),
        ({"prompt": b"caf\xc3\xa9", "response": b"", "more": 1}, Example("café", "")),
        ({"instruction": "i", "output": "o"}, Example("i\n", "o")),
        ({"instruction": "i", "input": "", "output": "o"}, Example("i\n", "o")),
        ({"instruction": "i", "input": "x", "output": "o"}, Example("i\n\nx\n", "o")),
        ({"text": "plain", "id": "3"}, Example("", "plain")),
        ({"instruction": "i", "context": "c", "response": "r", "category": "qa"}, Example("i\n\nc\n", "r")),
    ],
)
def test_known_keys_become_prompt_and_response(record, expected):
    assert example_from_record(record, where="line 1") == expected


def test_unknown_keys_are_named_with_those_needed():
    message = re.escape(
        "f.jsonl line 7 has the keys 'answer', 'prompt', but an example needs 'prompt' and 'response', or "
        "'instruction' and 'output', or 'instruction' and 'response', or 'text': rename its fields."
    )
    with pytest.raises(InputError, match=message):
        example_from_record({"prompt": "p", "answer": "a"}, where="f.jsonl line 7")


def test_a_value_must_be_text():
    with pytest.raises(InputError, match=r"line 2 has a list under 'response', but prompts and responses are text\."):
        example_from_record({"prompt": "p", "response": ["r"]}, where="line 2")


def test_spaced_examples_is_a_view_over_the_whole():
    examples = [Example(str(number), "") for number in range(6)]
    spaced = spaced_examples(examples, 3)
    assert [spaced[number].prompt for number in range(len(spaced))] == ["0", "2", "4"]
    assert spaced[-1].prompt == "4"
    with pytest.raises(IndexError):
        spaced[3]
    assert spaced_examples(examples, 9) is examples
    assert spaced_examples(examples, None) is examples
