import json

import pytest

from atkd_jax.commands.main import main
from atkd_jax.data import open_source


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_the_answer_alone_is_printed(model, trained_words, capsys):
    words = ["--prompt", "Add 1 to x.", "--model", model, "--max_new_tokens", "4"]
    assert main(["generate", *trained_words, *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert not captured.err


def test_drawing_depends_on_the_seed_alone(trained_words, capsys):
    def answer(seed):
        words = ["--prompt", "Add 1", "--temperature", "1.5", "--max_new_tokens", "12", "--seed", str(seed)]
        assert main(["generate", *trained_words, *words]) == 0
        return capsys.readouterr().out

    first = answer(1)
    assert answer(1) == first
    assert answer(2) != first


PROMPTS = ["Add 1 to x.", "Add 22 to x, and then take the root of it.", "Add 3"]
MANY = ["--max_new_tokens", "6", "--temperature", "1.2", "--batch_size", "2", "--model", "teacher"]


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_many_prompts_become_a_file_of_prompts_and_responses(trained_words, asked, tmp_path, capsys):
    out = tmp_path / "new" / "answers.jsonl"
    words = [*trained_words, *MANY, "--prompts", str(asked), "--out", str(out)]
    assert main(["generate", *words]) == 0
    captured = capsys.readouterr()
    assert not captured.out
    assert "answered: 3 of 3" in captured.err
    assert [line["prompt"] for line in lines_of(out)] == PROMPTS
    # None of them had room to end.
    assert all(set(line) == {"prompt", "response", "ended"} and not line["ended"] for line in lines_of(out))
    assert [path.name for path in out.parent.iterdir()] == ["answers.jsonl"]
    assert main(["generate", *words]) == 2
    assert "--out must be a new file" in capsys.readouterr().err


def test_a_split_of_the_data_is_answered_and_can_be_trained_on(trained_words, tmp_path):
    out = tmp_path / "answers.jsonl"
    assert main(["generate", *trained_words, *MANY, "--split", "train[:3]", "--out", str(out)]) == 0
    assert [line["prompt"] for line in lines_of(out)] == ["Add 0 to x.", "Add 1 to x.", "Add 2 to x."]
    assert len(open_source(str(out), split="train", cache_dir=tmp_path)) == 3


def test_an_answer_ends_before_a_stop_string(trained_words, capsys):
    words = [*trained_words, "--prompt", "Add 1 to x.", "--model", "teacher", "--max_new_tokens", "24"]
    assert main(["generate", *words]) == 0
    whole = capsys.readouterr().out[:-1]
    stop = whole[3:5]
    assert main(["generate", *words, "--stop", "never", stop]) == 0
    assert capsys.readouterr().out[:-1] == whole[: whole.index(stop)].strip()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--prompt must be a text that is not empty, but '' came."),
        (
            ["--prompt", "x", "--max_new_tokens", "0"],
            "--max_new_tokens must be a whole number of at least 1, but 0 came.",
        ),
        (["--prompt", "x", "--temperature", "-1"], "--temperature must be a number of at least 0, but -1.0 came."),
        (["--prompt", "x", "--top_k", "-1"], "--top_k must be a whole number of at least 0, but -1 came."),
        (["--prompt", "x", "--top_p", "0"], "--top_p must be a number above 0 and at most 1, but 0.0 came."),
        (["--prompt", "x", "--stop", ""], "--stop must be texts that are not empty, but ('',) came."),
        (["--prompt", "x", "--split", "train"], "only one of --prompt, --prompts and --split says what to answer"),
        (["--split", "train"], "--out goes with --prompts or --split, and they need it; --prompt prints."),
        (["--split", "train", "--out", "x", "--batch_size", "0"], "--batch_size must be a whole number of at least 1"),
        (["--prompt", "x", "--model", "both"], "invalid choice 'both' for argument '--model'."),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, capsys):
    assert main(["generate", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"command line: {sentence}")
    assert err.count("\n") == 1
