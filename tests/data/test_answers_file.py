import json

import pytest

from atkd_jax.data.answers_file import Answer, write_answers
from atkd_jax.errors import InputError

PROMPTS = ["a", "b", "ü", "d", "e"]


class StoppedError(Exception):
    pass


def write(out, *, fail_at=None, prompts=PROMPTS, settings=None):
    """Writes answers, which tell their numbers, and returns the numbers that were asked for."""
    asked, told = [], []

    def answer(group, numbers):
        if fail_at in numbers:
            raise StoppedError
        asked.extend(numbers)
        return [Answer(f"{prompt} {number}", number != 3) for prompt, number in zip(group, numbers, strict=True)]

    settings = settings or {"seed": 0}
    write_answers(out, prompts, answer=answer, settings=settings, batch_size=2, on_progress=told.append)
    assert told[-1] == len(prompts)
    return asked


def test_what_a_stop_left_is_finished_and_no_answer_is_asked_for_twice(tmp_path):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(StoppedError):
        write(out, fail_at=2)
    assert not out.exists()
    partial = tmp_path / "answers.jsonl.partial"
    partial.write_text(partial.read_text(encoding="utf-8") + '{"prompt": "ü", "respo', encoding="utf-8")
    assert write(out) == [2, 3, 4]
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    expected = [{"prompt": prompt, "response": f"{prompt} {number}"} for number, prompt in enumerate(PROMPTS)]
    expected[3]["ended"] = False
    assert lines == expected
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("odd", ["a\u2028b", "a\u2029b", "a\x85b"])
def test_only_a_newline_ends_a_line(tmp_path, odd):
    out, prompts = tmp_path / "answers.jsonl", [odd, *PROMPTS[1:]]
    with pytest.raises(StoppedError):
        write(out, fail_at=2, prompts=prompts)
    assert write(out, prompts=prompts) == [2, 3, 4]
    lines = out.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["prompt"] for line in lines] == prompts
    assert json.loads(lines[0])["response"] == f"{odd} 0"


@pytest.mark.parametrize("change", [{"settings": {"seed": 1}}, {"prompts": ["x", *PROMPTS[1:]]}, {"prompts": ["a"]}])
def test_what_was_begun_otherwise_is_refused(tmp_path, change):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(StoppedError):
        write(out, fail_at=4)
    with pytest.raises(
        InputError, match=r"answers\.jsonl\.partial was begun with other settings or prompts .*\"seed\""
    ):
        write(out, **change)


def test_a_file_that_is_there_is_left_alone(tmp_path):
    out = tmp_path / "answers.jsonl"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"^generate: --out must be a new file, but .* is there already"):
        write(out)
    assert out.read_text() == "mine"
