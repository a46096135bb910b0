import pytest

from atkd_jax.commands.main import main


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
        (["--prompt", "x", "--model", "both"], "invalid choice 'both' for argument '--model'."),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, capsys):
    assert main(["generate", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"command line: {sentence}")
    assert err.count("\n") == 1
