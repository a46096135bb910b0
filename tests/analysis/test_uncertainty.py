import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.analysis.uncertainty import QUANTILES, density, describe, token_uncertainties
from atkd_jax.data import Example, Template, evaluation_batches
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model
from atkd_jax.sharding import make_mesh

EXAMPLES = [Example(f"Add {number}.", f"def add(x):\n    return x + {number}\n") for number in range(6)]


def test_it_is_one_less_the_probability_of_every_response_token(tiny_teacher_directory, tiny_tokenizer):
    model, form = load_model(tiny_teacher_directory), Template("chat", tiny_tokenizer)
    settings = {"template": "chat", "sequence_length": 64, "batch_size": 4, "packing": False, "overlong": "error"}
    found = token_uncertainties(
        model,
        evaluation_batches(EXAMPLES, tiny_tokenizer, **settings),
        vocab_size=len(tiny_tokenizer),
        mesh=make_mesh(),
    )
    expected = []
    for example in EXAMPLES:
        prompt, response = form.prompt_ids(example.prompt), form.response_ids(example.response)
        logits = np.asarray(model(jnp.asarray([prompt + response], jnp.int32))[0], np.float64)
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected += list(1 - probs[np.arange(len(prompt) - 1, len(prompt) + len(response) - 1), response])
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-4, atol=1e-6)


def test_no_token_is_refused(tiny_teacher_directory):
    with pytest.raises(InputError, match="no token of the split counts"):
        token_uncertainties(load_model(tiny_teacher_directory), [], vocab_size=2, mesh=make_mesh())


def test_the_description_is_numpy_s():
    values = np.random.default_rng(0).beta(0.4, 1.2, 999).astype(np.float32)
    found = describe(values)
    assert (found["tokens"], found["mean"]) == (999, pytest.approx(values.mean(), rel=1e-6))
    assert found["share_below_0.1"] == pytest.approx(np.mean(values < 0.1))
    assert [found[f"q{level}"] for level in QUANTILES] == pytest.approx(np.quantile(values.astype(float), QUANTILES))


@pytest.mark.parametrize("tokens", [40, 20_000])
def test_the_density_integrates_to_one_and_is_flat_where_values_are(tokens):
    places, found = density(np.random.default_rng(1).uniform(size=tokens))
    assert np.trapezoid(found, places) == pytest.approx(1, abs=0.01)
    if tokens > 1000:
        np.testing.assert_allclose(found, 1, atol=0.15)  # At the borders too.


@pytest.mark.parametrize("values", [np.zeros(5), np.ones(1)])
def test_values_that_are_all_alike_have_a_peak(values):
    places, found = density(values)
    assert np.isfinite(found).all()
    assert places[np.argmax(found)] == values[0]
