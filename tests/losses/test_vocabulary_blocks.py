"""What is kept of a token while blocks go by, and how tokens and words are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.losses.vocabulary_blocks import Model, Plan, all_varying, fold, gradient, unseen


@given(st.lists(st.sampled_from([-1e4, -50.0, 0.0, 3.0, 1e4]), min_size=6, max_size=6), st.integers(0, 5))
def test_running_facts_do_not_depend_on_the_blocks(logits, target):
    logits, targets = np.array([logits], np.float32), np.array([target], np.int32)
    margins = []
    for words in (6, 3, 1):
        rest = unseen(targets)
        for first in range(0, 6, words):
            rest, _ = rest.updated(jnp.asarray(logits[:, first : first + words]), jnp.asarray(targets - first))
        margins.append(float(rest.margin()[0]))
    others = np.float64(np.delete(logits[0], target))
    expected = np.float64(logits[0, target]) - others.max() - np.log(np.exp(others - others.max()).sum())
    np.testing.assert_allclose(margins, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_words", [1, 3, 5, 8])
@pytest.mark.parametrize("chunk_tokens", [1, 2, 7, 9])
def test_every_word_of_every_token_is_seen_once(block_words, chunk_tokens):
    rng = np.random.default_rng(0)
    model = Model(rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32), None)
    plan = Plan(5, block_words, chunk_tokens, 2.0, (None,), None)
    targets = np.arange(7, dtype=np.int32)

    def add(_, total, logits, column):
        return total + jnp.sum(logits[0], axis=-1)

    sums = fold(plan, (model,), targets, lambda targets: jnp.zeros(targets.shape), add, lambda total: total)
    np.testing.assert_allclose(sums, 2 * (model.hidden @ model.head[:, :5]).sum(-1), rtol=1e-5, atol=1e-5)
    by_model = gradient(plan, (model,), targets, lambda targets, logits, column: jnp.ones_like(logits[0]))
    np.testing.assert_allclose(by_model.hidden, np.tile(2 * model.head[:, :5].sum(-1), (7, 1)), rtol=1e-5, atol=1e-5)
    expected = np.tile(2 * model.hidden.sum(0)[:, None], (1, 8))
    expected[:, 5:] = 0
    np.testing.assert_allclose(by_model.head, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_marked_outside_of_a_mapped_function():
    tree = {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}
    marked = all_varying(tree)
    assert all(one is other for one, other in zip(jax.tree.leaves(marked), jax.tree.leaves(tree), strict=True))
