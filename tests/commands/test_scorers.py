import pytest

from atkd_jax.commands.verbs import parse_verb
from atkd_jax.errors import InputError


@pytest.mark.parametrize(
    ("verb", "words", "sentence"),
    [
        ("generate", ["--answers.source", "a.jsonl"], "generate is for language models, but answers.source is a.jsonl"),
        ("export", ["--images.source", "digits"], "export is for language models, but images.source is digits"),
    ],
)
def test_verbs_that_need_a_language_model_say_so(verb, words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_verb(verb, words)


def test_train_and_evaluate_take_images():
    for verb, words in (("train", ["--dry-run"]), ("evaluate", [])):
        assert parse_verb(verb, ["--images.source", "digits", *words]).settings.images.source == "digits"


def test_train_evaluate_and_export_take_scores():
    for verb in ("train", "evaluate", "export"):
        assert parse_verb(verb, ["--answers.source", "a.jsonl"]).settings.answers.source == "a.jsonl"
