import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from family_checks import SHAPE, VOCAB_SIZE, Case
from flax import nnx
from llama_oracle import GROUPED, make_pair

from atkd_jax.data.templates import render_prompt
from atkd_jax.errors import InputError
from atkd_jax.generation import generate
from atkd_jax.generation.decoding import Ending
from atkd_jax.generation.generate import make_knobs
from atkd_jax.generation.rows import Plan, begin_rows, go_on_rows, place_rows
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.models import logical_axes
from atkd_jax.sharding import make_mesh, parameter_shardings

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, GROUPED.vocab_size, length).tolist() for length in (5, 20, 1, 33)]
SETTINGS = {"max_new_tokens": 64, "eos_ids": (), "pad_id": 0}


@pytest.fixture(scope="module")
def pair():
    return make_pair()


@pytest.fixture(scope="module")
def model(pair):
    return nnx.split(pair.decoder)


def torch_greedy(oracle, prompt, eos_id=None, max_new_tokens=64):
    ids = torch.tensor([prompt])
    written = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    return written[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def greedy_answers(model):
    return generate(*model, PROMPTS, **SETTINGS)


@pytest.mark.parametrize("row", range(4))
def test_greedy_text_is_that_of_transformers(pair, greedy_answers, row):
    assert greedy_answers[row] == torch_greedy(pair.oracle, PROMPTS[row])


def test_greedy_text_says_something(greedy_answers):
    assert len({token for answer in greedy_answers for token in answer}) > 20


def test_a_row_ends_with_the_first_of_the_eos_ids_and_holds_it(model, greedy_answers):
    ends = (greedy_answers[0][7], greedy_answers[1][3])
    stopped = generate(*model, PROMPTS, **SETTINGS | {"eos_ids": ends})
    for short, whole in zip(stopped, greedy_answers, strict=True):
        first = next((i for i, token in enumerate(whole) if token in ends), len(whole) - 1)
        assert short == whole[: first + 1]
    assert len(stopped[0]) <= 8


def test_one_token_is_one_token(model, greedy_answers):
    assert generate(*model, PROMPTS, **SETTINGS | {"max_new_tokens": 1}) == [answer[:1] for answer in greedy_answers]


def test_groups_of_rows_write_what_all_rows_write(model, greedy_answers):
    assert generate(*model, PROMPTS, **SETTINGS, batch_size=3) == greedy_answers


DRAWN = {"max_new_tokens": 24, "eos_ids": (), "pad_id": 0, "temperature": 1.0, "top_p": 0.9, "top_k": 40}


def test_a_row_does_not_depend_on_its_neighbours(model):
    key = jax.random.key(0)
    first = generate(*model, PROMPTS, **DRAWN, key=key)
    second = generate(*model, [PROMPTS[0], PROMPTS[2], PROMPTS[2], PROMPTS[1]], **DRAWN, key=key)
    assert (first[0], first[2]) == (second[0], second[2])
    assert second[1] != second[2]  # The same prompt under another key.


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_does_not_depend_on_how_many_rows_there_are(model, batch_size):
    key = jax.random.key(0)
    together = generate(*model, PROMPTS, **DRAWN, key=key)
    assert generate(*model, PROMPTS, **DRAWN, key=key, batch_size=batch_size) == together
    alone = generate(*model, PROMPTS[2:3], **DRAWN, key=key, numbers=[2])
    assert alone == together[2:3]


def test_a_key_tells_what_is_drawn(model):
    first, again, other = (generate(*model, PROMPTS, **DRAWN, key=jax.random.key(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_temperature_near_zero_and_a_cut_to_one_token_are_greedy(model, greedy_answers):
    expected = [answer[:24] for answer in greedy_answers]
    key = jax.random.key(0)
    assert generate(*model, PROMPTS, **DRAWN | {"temperature": 1e-4}, key=key) == expected
    assert generate(*model, PROMPTS, **DRAWN | {"top_k": 1}, key=key) == expected
    assert generate(*model, PROMPTS, **DRAWN | {"top_p": 1e-6}, key=key) == expected


def test_prompts_of_one_bucket_share_a_program(model):
    generate(*model, [[1] * 17], **DRAWN, key=jax.random.key(0))
    programs = begin_rows._cache_size(), go_on_rows._cache_size()
    settings = DRAWN | {"temperature": 0.5, "top_p": 0.3}
    generate(*model, [[1] * 24], **settings, key=jax.random.key(1))
    assert (begin_rows._cache_size(), go_on_rows._cache_size()) == programs


def test_parameters_split_over_devices_write_the_same(model, greedy_answers):
    graphdef, params = model
    mesh = make_mesh(fsdp=2, tensor=2)
    split = jax.device_put(params, parameter_shardings(mesh, logical_axes(params), params))
    assert generate(graphdef, split, PROMPTS, **SETTINGS) == greedy_answers


@pytest.fixture(scope="module")
def sharded(model):
    """The parameters as training has them on eight devices, which share the rows too."""
    mesh = make_mesh(fsdp=2, tensor=2)
    return mesh, jax.device_put(model[1], parameter_shardings(mesh, logical_axes(model[1]), model[1]))


def test_sharded_like_training_the_text_is_the_same(model, sharded, greedy_answers):
    mesh, params = sharded
    assert generate(model[0], params, PROMPTS[:3], **SETTINGS, mesh=mesh) == greedy_answers[:3]
    drawn = generate(*model, PROMPTS[:3], **DRAWN, key=jax.random.key(0))
    assert generate(model[0], params, PROMPTS[:3], **DRAWN, key=jax.random.key(0), mesh=mesh) == drawn


def test_the_cache_is_split_over_rows(model, sharded):
    mesh, params = sharded
    plan = Plan((model[0],), Ending(4, (), 0), is_greedy=True, top_k=None, mesh=mesh)
    rows = place_rows(PROMPTS, jax.random.split(jax.random.key(0), 4), rows=4, pad_id=0, mesh=mesh)
    writing = begin_rows(plan, (params,), rows, make_knobs(0.0, None))
    keys = writing.state[0][0].key[0]
    assert keys.sharding.shard_shape(keys.shape)[0] == 1


def test_without_a_copy_of_the_layers_the_text_is_the_same_and_the_memory_less(model, greedy_answers):
    assert generate(*model, PROMPTS, **SETTINGS, unstack=False) == greedy_answers
    graphdef, params = model
    rows = place_rows(PROMPTS[2:3], jax.random.split(jax.random.key(0), 1), rows=1, pad_id=0, mesh=None)
    knobs, temporary = make_knobs(0.0, None), []
    for unstack in (True, False):
        plan = Plan((graphdef,), Ending(2, (), 0), is_greedy=True, top_k=None, unstack=unstack)
        writing = begin_rows(plan, (params,), rows, knobs)
        program = go_on_rows.lower(plan, (params,), rows, knobs, writing, jnp.int32(2)).compile()
        temporary.append(program.memory_analysis().temp_size_in_bytes)
    layers = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(nnx.merge(graphdef, params).layers)))
    assert temporary[0] > 0.9 * layers
    assert temporary[1] < 0.5 * layers


def test_an_answer_ends_where_it_is_told_to(model, greedy_answers):
    """As stop strings do it: the answers' tokens are looked at while they are written."""
    ends = [answer[index] for answer, index in zip(greedy_answers, (20, 3, 40, 63), strict=True)]
    lengths = [answer.index(end) + 1 for answer, end in zip(greedy_answers, ends, strict=True)]

    def end_of(tokens):
        row = next(row for row, answer in enumerate(greedy_answers) if answer[: len(tokens)] == list(tokens))
        return lengths[row] if len(tokens) >= lengths[row] else None

    answers = generate(*model, PROMPTS, **SETTINGS, end_of=end_of)
    assert answers == [answer[:length] for answer, length in zip(greedy_answers, lengths, strict=True)]


LEARNED = {
    "gpt2": Case(
        "GPT2Config",
        {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
        | {"initializer_range": 0.15, "bos_token_id": None, "eos_token_id": None},
    ),
    "opt": Case(
        "OPTConfig",
        {name: value for name, value in SHAPE.items() if name not in ("num_key_value_heads", "intermediate_size")}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.15, "max_position_embeddings": 40},
    ),
}


@pytest.mark.parametrize("family", LEARNED)
def test_all_learned_positions_are_used_and_no_more(family, tmp_path):
    """Of 40 of them; the rectangle of the prompts has 48 columns, and what is padded takes none."""
    oracle = LEARNED[family].model()
    oracle.save_pretrained(tmp_path)
    model = nnx.split(load_model(tmp_path))
    rng = np.random.default_rng(1)
    prompts = [rng.integers(2, VOCAB_SIZE, length).tolist() for length in (33, 5, 12, 21, 32)]
    settings = {"max_new_tokens": 7, "eos_ids": (), "pad_id": 0}
    answers = generate(*model, prompts, **settings)
    assert answers == [torch_greedy(oracle, prompt, max_new_tokens=7) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) > 3
    with pytest.raises(InputError, match=r"at most the 40 tokens .*, but prompt 0 .* has 33 and max_new_tokens is 8;"):
        generate(*model, prompts, **settings | {"max_new_tokens": 8})


@pytest.mark.slow
@pytest.mark.wheel
def test_greedy_text_of_smollm2_is_that_of_transformers(smollm2_directory):
    oracle = transformers.AutoModelForCausalLM.from_pretrained(smollm2_directory, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(smollm2_directory)
    questions = ["What is the capital of France?", "Write a Python function that adds two numbers and explain it."]
    prompts = [render_prompt(question, tokenizer, "chat") for question in questions]
    answers = generate(*nnx.split(load_model(smollm2_directory)), prompts, **SETTINGS)
    assert "Paris" in tokenizer.decode(answers[0])
    assert answers == [torch_greedy(oracle, prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompts": []}, "there must be at least one prompt, got an empty list"),
        ({"prompts": [[1], []]}, r"prompt 1 \(from 0\) has none"),
        ({"prompts": [[1, 101]]}, r"must be from 0 to 100, but prompt 0 \(from 0\) has 1 to 101"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_p": float("nan")}, "top_p must be above 0 and at most 1, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be a number from 0 on, got -1.0"),
        ({"temperature": 1.0}, "temperature 1.0 draws tokens and needs a key"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_done_is_refused(model, change, sentence):
    arguments = {"prompts": PROMPTS} | SETTINGS | change
    with pytest.raises(InputError, match=f"^generate: .*{sentence}"):
        generate(*model, arguments.pop("prompts"), **arguments)
