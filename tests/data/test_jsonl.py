import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from atkd_jax.data.examples import Example
from atkd_jax.data.jsonl import JsonLines, read_prompts
from atkd_jax.errors import InputError


def pair(number):
    return {"prompt": f"prompt {number}", "response": f"réponse {number} 🙂"}


def test_reads_any_line_by_number(write_jsonl):
    lines = JsonLines(write_jsonl(*map(pair, range(9))))
    assert len(lines) == 9
    assert lines[4] == Example("prompt 4", "réponse 4 🙂")
    assert lines[-1].prompt == "prompt 8"
    assert [example.prompt for example in lines] == [f"prompt {number}" for number in range(9)]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "response": "b"}\r\n\r\n  \n{"instruction": "c", "output": "d"}')
    assert list(JsonLines(path)) == [Example("a", "b"), Example("c\n", "d")]


def test_a_slice_holds_the_lines_it_names(write_jsonl):
    path = write_jsonl(*map(pair, range(10)))
    assert [example.prompt[-1] for example in JsonLines(path, split="train[70%:]")] == ["7", "8", "9"]


def test_lines_are_not_kept_in_memory(write_jsonl):
    lines = JsonLines(write_jsonl(*({"prompt": "x" * 1000, "response": "y"} for _ in range(500))))
    assert len(pickle.dumps(lines)) < 8 * 500 + 1000


def test_threads_and_pickled_copies_read_the_same(write_jsonl):
    lines = pickle.loads(pickle.dumps(JsonLines(write_jsonl(*map(pair, range(200))))))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lines.__getitem__, [*range(200)] * 3))
    assert [example.prompt for example in read] == [f"prompt {number}" for number in range(200)] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", ', r"data\.jsonl line 3 is no JSON \(.+\): each line must be one JSON object\."),
        ("[1, 2]", r"data\.jsonl line 3 is a JSON list, but each line must be one JSON object\."),
        ('{"question": "a"}', r"data\.jsonl line 3 has the keys 'question', but an example needs 'prompt' and"),
        ('{"prompt": "a", "response": null}', r"data\.jsonl line 3 has a NoneType under 'response', but"),
    ],
)
def test_a_bad_line_is_named_with_its_number(write_jsonl, line, message):
    path = write_jsonl(pair(0), "", line, pair(1))
    with pytest.raises(InputError, match=message):
        JsonLines(path)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"prompt": "é", "response": ""}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"line 1 is not UTF-8 \(.+\): save the file as UTF-8\."):
        JsonLines(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"The data file .*none\.jsonl does not exist: give the path of a JSONL file\."
    ):
        JsonLines(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"The data file .* is a folder: give the path of a JSONL file\."):
        JsonLines(tmp_path)


def test_no_examples_is_an_error(write_jsonl):
    with pytest.raises(InputError, match=r"The data file .*data\.jsonl holds no examples: give a data set or a split"):
        JsonLines(write_jsonl("", "  "))
    with pytest.raises(InputError, match=r"The split 'train\[:0\]' of .*data\.jsonl holds no examples"):
        JsonLines(write_jsonl(pair(0)), split="train[:0]")


def test_a_file_that_changed_after_it_was_opened_is_reported(write_jsonl):
    lines = JsonLines(write_jsonl(*map(pair, range(3))))
    write_jsonl({"prompt": "a much longer line than the one that stood here before", "response": "b"})
    with pytest.raises(InputError, match=r"at byte \d+ \(it changed after it was opened\)"):
        lines[1]


def test_prompts_need_no_response(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"instruction": "b", "input": "c"}\n{"prompt": "d", "response": "e"}\n')
    assert read_prompts(path) == ["a", "b\n\nc\n", "d"]
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(InputError, match=r"prompts\.jsonl line 2 has the keys"):
        read_prompts(path)
    with pytest.raises(InputError, match=r"absent\.jsonl does not exist"):
        read_prompts(tmp_path / "absent.jsonl")
