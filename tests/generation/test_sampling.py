import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from atkd_jax.generation import sample
from atkd_jax.generation.sampling import greedy

LOGITS = np.random.default_rng(0).normal(scale=2.0, size=(1, 12)).astype(np.float32)
DRAWS = 20_000


def shares(logits, **settings):
    """How often each token is drawn."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    drawn = sample(jnp.broadcast_to(jnp.asarray(logits), (DRAWS, logits.shape[-1])), keys, **settings)
    return np.bincount(np.asarray(drawn), minlength=logits.shape[-1]) / DRAWS


def torch_probs(logits, temperature=1.0, top_k=None, top_p=None):
    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return torch.softmax(scores, dim=-1).numpy()[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 100},
        {"top_p": 0.7},
        {"top_p": 0.999},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.8},
    ],
    ids=str,
)
def test_tokens_are_drawn_as_transformers_would_draw_them(settings):
    expected = torch_probs(LOGITS, **settings | ({"top_k": 12} if settings.get("top_k") == 100 else {}))
    drawn = shares(LOGITS, **settings)
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))
    # Five standard deviations of a share.
    np.testing.assert_array_less(np.abs(drawn - expected), 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1.0), st.sampled_from([1, 5, 16]))
def test_a_drawn_token_is_within_both_cuts(seed, top_p, top_k):
    logits = np.random.default_rng(seed).normal(scale=3.0, size=(4, 16)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), 4)
    tokens = np.asarray(jitted_sample(logits, keys, top_k=top_k, top_p=top_p))
    for row, token in zip(logits, tokens, strict=True):
        order = np.argsort(-row)[:top_k]
        probs = np.exp(row[order].astype(np.float64))
        before = np.cumsum(probs / probs.sum()) - probs / probs.sum()
        assert token in order[(before < top_p + 1e-6) | (before == 0)]


jitted_sample = jax.jit(sample, static_argnames="top_k")


def test_a_row_depends_on_its_own_logits_and_key():
    logits = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    together = sample(jnp.asarray(logits), keys, top_p=0.9)
    apart = [int(sample(jnp.asarray(logits[i : i + 1]), keys[i : i + 1], top_p=0.9)[0]) for i in range(3)]
    assert together.tolist() == apart


def test_every_row_can_have_its_temperature():
    logits = jnp.broadcast_to(jnp.asarray(LOGITS), (200, 12))
    keys = jax.random.split(jax.random.key(0), 200)
    temperatures = jnp.where(jnp.arange(200) < 100, 1e-3, 100.0)
    drawn = np.asarray(sample(logits, keys, temperature=temperatures))
    assert set(drawn[:100]) == {LOGITS.argmax()}
    assert len(set(drawn[100:])) > 6


def test_greedy_takes_the_first_of_equals():
    assert greedy(jnp.asarray([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]], jnp.bfloat16)).tolist() == [1, 0]


def test_minus_infinity_is_never_drawn():
    logits = np.where(np.arange(12) % 2, LOGITS, -np.inf)
    for settings in ({}, {"top_k": 8}, {"top_p": 0.99}):
        assert not shares(logits, **settings)[::2].any()


def test_equals_of_the_last_token_of_a_nucleus_stay():
    logits = np.log(np.asarray([[0.4, 0.2, 0.2, 0.2]], np.float32))
    assert set(np.flatnonzero(shares(logits, top_p=0.5))) == {0, 1, 2, 3}
    assert set(np.flatnonzero(shares(logits, top_p=0.35))) == {0}


def test_every_row_can_have_its_nucleus():
    logits = jnp.broadcast_to(jnp.asarray(LOGITS), (200, 12))
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = np.asarray(sample(logits, keys, top_p=jnp.where(jnp.arange(200) < 100, 1e-3, 1.0)))
    assert set(drawn[:100]) == {LOGITS.argmax()}
    assert len(set(drawn[100:])) > 3
