import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.data import Template, open_source
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.models import logical_axes
from atkd_jax.sharding import make_meshes, parameter_shardings, spread
from atkd_jax.training.validation import VALIDATION_NAME, held_out_loss, with_validation


@pytest.fixture
def measured(tiny_teacher_directory, examples):
    """The loss of the tiny model on some examples, and the model, its tokenizer and the examples."""

    def make(**data):
        tree = {
            "data": {"source": str(examples), "sequence_length": 64} | data,
            "training": {"batch_size": 8, "validation_examples": 10},
            "evaluation": {"split": "train[20:]"},
        }
        config = Config.model_validate(tree)
        model, tokenizer = load_model(tiny_teacher_directory), load_tokenizer(tiny_teacher_directory)
        graphdef, params = nnx.split(model)
        meshes = make_meshes()
        params = spread(params, parameter_shardings(meshes.student, logical_axes(params), params))
        measure = held_out_loss(config, tokenizer, meshes=meshes, student=graphdef, vocab_size=len(tokenizer))
        return measure(params), model, tokenizer, examples

    return make


def test_it_is_the_mean_over_the_held_out_responses_tokens(measured):
    found, model, tokenizer, source = measured()
    form = Template("chat", tokenizer)
    held = open_source(str(source), split="train[20:]", cache_dir=".")
    losses = []
    for number in range(0, 20, 2):
        prompt, response = form.prompt_ids(held[number].prompt), form.response_ids(held[number].response)
        logits = np.asarray(model(jnp.asarray([prompt + response], jnp.int32))[0], np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        losses += list(-log_probs[places, response])
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_split_without_tokens_is_refused(measured):
    with pytest.raises(InputError, match="None of the"):
        measured(sequence_length=2)


def test_it_is_measured_every_so_often_and_once_before_where_that_is_wanted():
    told, known = [], []

    def on_loss(loss):
        told.append(loss)
        known.append(True)

    class State:
        params = 0

    def step(state, batch):
        state.params += 1
        return state, {"loss": jnp.float32(batch)}

    validated = with_validation(
        step, lambda params: 10.0 + params, every_steps=3, start=4, is_first_known=lambda: bool(known), on_loss=on_loss
    )
    found = [validated(State, number)[1].get(VALIDATION_NAME) for number in range(5)]
    assert found == [None, 12.0, None, None, 15.0]  # After steps 6 and 9.
    assert told == [10.0, 12.0, 15.0]
