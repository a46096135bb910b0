"""How tokens and words are cut: every word of every counted token is seen once, in any cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses.vocabulary_blocks import Counted, Model, Plan, no_gradient, over_chunks


@pytest.mark.parametrize("block_words", [1, 3, 5, 8])
@pytest.mark.parametrize("chunk_tokens", [1, 2, 7, 9])
@pytest.mark.parametrize("kept_columns", [0, 3, 5])
def test_every_word_of_every_counted_token_is_seen_once(block_words, chunk_tokens, kept_columns):
    rng = np.random.default_rng(0)
    model = Model(rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32), None)
    plan = Plan(5, block_words, chunk_tokens, 2.0, (None,), kept_columns=kept_columns)
    order = np.array([6, 1, 3, 0, 2, 4, 5], np.int32)

    def add(total, block):
        return total + jnp.sum(block.logits[0], axis=-1)

    def chunk(totals, chunk, tokens):
        start = jnp.zeros(tokens[0].shape)
        sums, chunk = chunk.sweep_and_keep(add, start)
        assert kept_columns == (0 if chunk.kept is None else chunk.kept[0].shape[-1])
        totals, by_hidden = chunk.gradient(lambda block: tokens[1][:, None] * jnp.ones_like(block.logits[0]), totals)
        return totals, (sums, by_hidden)

    @jax.jit
    def swept(model, number, counts):
        # Tokens that do not count have no cotangent, for where all fit into one chunk they are worked on with the rest.
        tokens = jnp.arange(7, dtype=jnp.int32), counts.astype(jnp.float32)
        return over_chunks(plan, chunk, no_gradient(model), (model,), Counted(order, number), tokens)

    for number in (0, 3, 7):
        counts = np.isin(np.arange(7), order[:number])
        totals, (sums, by_hidden) = swept(model, np.int32(number), counts)
        expected = 2 * (model.hidden @ model.head[:, :5]).sum(-1)
        np.testing.assert_allclose(np.asarray(sums)[counts], expected[counts], rtol=1e-5, atol=1e-5)
        by_all = 2 * counts[:, None] * model.head[:, :5].sum(-1)[None]
        np.testing.assert_allclose(by_hidden, by_all, rtol=1e-5, atol=1e-5)
        by_head = np.tile(2 * (counts[:, None] * model.hidden).sum(0)[:, None], (1, 8))
        by_head[:, 5:] = 0
        np.testing.assert_allclose(totals.head, by_head, rtol=1e-5, atol=1e-5)
