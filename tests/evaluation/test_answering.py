import pytest
from flax import nnx

from atkd_jax.data import Template
from atkd_jax.evaluation import placed_model
from atkd_jax.evaluation.answering import Decoding, answer_prompts, decodings
from atkd_jax.generation import generate
from atkd_jax.interop import load_model
from atkd_jax.sharding import make_mesh

PROMPTS = ["Write a Python function that adds", "if x", "def add(a, b):\n    return", "Write", "x = []"]


@pytest.fixture(scope="module")
def model(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


@pytest.fixture(scope="module")
def form(tiny_tokenizer):
    return Template("plain", tiny_tokenizer)


def answered(model, form, tokenizer, prompts, **changes):
    settings = {"decoding": Decoding("seed_3", 1.0, seed=3), "max_new_tokens": 6, "batch_size": 2, "mesh": None}
    return answer_prompts(model, prompts, tokenizer, form=form, **settings | changes)


def test_every_prompt_gets_its_own_answer_whatever_its_neighbours_and_the_mesh(model, form, tiny_tokenizer):
    prompts = [form.prompt_ids(prompt) for prompt in PROMPTS]
    done = []
    found = answered(model, form, tiny_tokenizer, prompts, on_answers=done.append)
    assert done == [2, 2, 1]
    mesh = make_mesh(fsdp=2)
    assert answered(placed_model(model, mesh), form, tiny_tokenizer, prompts, mesh=mesh, batch_size=8) == found
    assert answered(model, form, tiny_tokenizer, prompts, decoding=Decoding("seed_4", 1.0, seed=4)) != found


def test_greedy_answers_are_those_of_generate(model, form, tiny_tokenizer):
    prompts = [form.prompt_ids(prompt) for prompt in PROMPTS[:3]]
    found = answered(model, form, tiny_tokenizer, prompts, decoding=Decoding("greedy"))
    for prompt, answer in zip(prompts, found, strict=True):
        (ids,) = generate(*nnx.split(model), [prompt], max_new_tokens=6, eos_ids=form.stop_ids, pad_id=form.padding_id)
        assert answer.text == tiny_tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.tokens == len(ids)
        assert answer.is_closed == (ids[-1] in form.stop_ids)


def test_decodings_are_greedy_and_one_per_seed():
    settings = {"temperature": 0.7, "top_k": 5, "top_p": 0.9}
    assert decodings(greedy=True, seeds=(1, 2), **settings) == [
        Decoding("greedy"),
        Decoding("seed_1", 0.7, 5, 0.9, 1),
        Decoding("seed_2", 0.7, 5, 0.9, 2),
    ]
    assert [own.name for own in decodings(greedy=False, seeds=(1,), **settings)] == ["seed_1"]
