import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.evaluation.sequence_scores import SequenceScorer
from atkd_jax.interop import load_model
from atkd_jax.sharding import make_mesh

PAIRS = [([5, 9, 3], [7, 8]), ([4], [6]), ([1, 2, 3, 4, 5, 6, 7], [9, 9, 9]), ([8, 8], [1] * 20), ([3], [2])]


@pytest.fixture(scope="module")
def model(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


@nnx.jit
def forward(model, tokens):
    return model(tokens)


def oracle(model, context, continuation, max_length):
    """One text at a time, by NumPy in float64."""
    text = [*context, *continuation][-(max_length + 1) :]
    logits = np.asarray(forward(model, jnp.asarray([[*text, *[0] * (32 - len(text))]], jnp.int32))[0], np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(max(len(text) - len(continuation), 1), len(text))
    return sum(log_probs[p - 1, text[p]] for p in places), all(log_probs[p - 1].argmax() == text[p] for p in places)


@pytest.mark.parametrize("max_length", [100, 6])
def test_continuations_are_scored_as_by_numpy(model, max_length):
    scorer = SequenceScorer(model, vocab_size=model.config.vocab_size, batch_size=2)
    best = int(np.asarray(forward(model, jnp.asarray([[5, 9, 3, *[0] * 29]], jnp.int32)))[0, 2].argmax())
    pairs = [*PAIRS, ([5, 9, 3], [best])]
    done = []
    scores = scorer(pairs, max_length=max_length, on_scored=done.append)
    assert done == [2, 4, 6]
    assert scores[-1].is_greedy
    for score, pair in zip(scores, pairs, strict=True):
        expected, is_greedy = oracle(model, *pair, max_length)
        np.testing.assert_allclose(score.log_likelihood, expected, rtol=1e-5)
        assert score.is_greedy == is_greedy


def test_the_mesh_changes_nothing(model):
    plain = SequenceScorer(model, vocab_size=model.config.vocab_size, batch_size=3)(PAIRS, max_length=50)
    spread = SequenceScorer(model, vocab_size=model.config.vocab_size, batch_size=3, mesh=make_mesh(fsdp=2, tensor=2))(
        PAIRS, max_length=50
    )
    np.testing.assert_allclose(*([own.log_likelihood for own in scores] for scores in (plain, spread)), rtol=1e-5)
