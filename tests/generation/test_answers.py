from copy import copy

import jax
import pytest
from flax import nnx

from atkd_jax.data import Answer, Template
from atkd_jax.generation import answer, generate, written_answers
from atkd_jax.interop import load_model


@pytest.fixture(scope="module")
def model(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


def test_answers_can_be_drawn(model, tiny_tokenizer):
    def drawn(seed):
        settings = {"template": "plain", "max_new_tokens": 12, "temperature": 1.0, "key": jax.random.key(seed)}
        return answer(model, ["Add 1"], tiny_tokenizer, **settings)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_an_answer_has_ended_by_its_closing_token_or_a_stop_string_and_not_by_its_room(model, tiny_tokenizer):
    def written(**options):
        return written_answers(
            model, ["Add 1"], tiny_tokenizer, **{"template": "plain", "max_new_tokens": 9} | options
        )[0]

    whole = written()
    ids = tiny_tokenizer.encode(whole.text, add_special_tokens=False)
    assert not whole.ended
    assert len(ids) > 3
    stop = whole.text[4:6]
    assert written(stop_strings=[stop]) == Answer(whole.text[: whole.text.index(stop)].strip(), ended=True)
    closing = copy(tiny_tokenizer)
    closing.eos_token = tiny_tokenizer.convert_ids_to_tokens(generated_ids(model, tiny_tokenizer)[4])
    assert written_answers(model, ["Add 1"], closing, template="plain", max_new_tokens=9)[0].ended


def generated_ids(model, tokenizer):
    form = Template("plain", tokenizer)
    (ids,) = generate(*nnx.split(model), [form.prompt_ids("Add 1")], max_new_tokens=9, eos_ids=(), pad_id=0)
    return ids
