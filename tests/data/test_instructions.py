import json

import pytest

from atkd_jax.data import Instruction, open_instructions
from atkd_jax.data.instructions import instruction_from_record
from atkd_jax.errors import InputError


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"instruction": "a", "output": "b", "prompt": "### a", "topic": 1}, Instruction("a", "", ("b",))),
        ({"instruction": "a", "input": "", "output": ["b", "c"]}, Instruction("a", "", ("b", "c"))),
        ({"instruction": b"a", "context": b"d", "response": b"b"}, Instruction("a", "d", ("b",))),
        ({"prompt": "a", "response": "b"}, Instruction("a", "", ("b",))),
        ({"instruction": "a", "prompt": "### a", "response": "b"}, Instruction("a", "", ("b",))),
    ],
)
def test_records_of_every_known_form_are_read(record, expected):
    assert instruction_from_record(record, where="line 1") == expected


@pytest.mark.parametrize("output", [[], 3, ["a", 3], None])
def test_answers_that_are_no_text_are_refused(output):
    with pytest.raises(InputError, match=r"line 7 must have .*text.* under 'output'"):
        instruction_from_record({"instruction": "a", "output": output}, where="line 7")


def test_text_alone_is_no_instruction():
    with pytest.raises(InputError, match="line 7 has 'text' alone"):
        instruction_from_record({"text": "a"}, where="line 7")


def test_a_file_is_read_evenly_spaced(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"instruction": str(n), "output": "b"}) + "\n" for n in range(9)))

    def numbers(limit, split="train"):
        found = open_instructions(str(path), split=split, cache_dir=tmp_path, limit=limit)
        return [int(own.instruction) for own in found]

    assert numbers(3) == [0, 3, 6]
    assert numbers(None) == numbers(20) == list(range(9))
    assert numbers(None, "train[6:]") == [6, 7, 8]
