import pytest

from atkd_jax.data import Example
from atkd_jax.evaluation.samples import sample_answers
from atkd_jax.interop import load_model

EXAMPLES = [Example("Add 1 to x.", "x + 1"), Example("Write a Python function.", "def f(): ...")]


@pytest.fixture(scope="module")
def model(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


def test_every_model_answers_every_prompt(model, tiny_tokenizer):
    models = {"teacher": model, "again": model}
    tokenizers = dict.fromkeys(models, tiny_tokenizer)
    samples = sample_answers(models, EXAMPLES, tokenizers, template="chat", max_new_tokens=5)
    assert [(sample.prompt, sample.response) for sample in samples] == [
        (example.prompt, example.response) for example in EXAMPLES
    ]
    for sample in samples:
        assert list(sample.answers) == ["teacher", "again"]
        assert sample.answers["teacher"] == sample.answers["again"]
        assert "<|im_start|>" not in sample.answers["teacher"]


def test_no_prompts_have_no_answers(model, tiny_tokenizer):
    tokenizers = {"teacher": tiny_tokenizer}
    assert sample_answers({"teacher": model}, [], tokenizers, template="chat", max_new_tokens=5) == []
