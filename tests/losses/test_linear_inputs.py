import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.losses.linear_inputs import Cut, prepare
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.vocabulary_blocks import Model


def inputs(vocabulary=6, targets=(0, 5, -1, 6), mask=(True, True, False, True), **cut):
    model = Model(jnp.ones((4, 2)), jnp.zeros((2, vocabulary)), None)
    choices = {"vocab_size": 6, "block_words": 4, "chunk_tokens": None, "keep_logits": None}
    plan = Cut(**(choices | cut), vocab_axis=None, token_axes=())
    return prepare(
        "f", Question("forward_kl"), model, model, (None, None), jnp.array(targets), jnp.array(mask), 1.0, plan
    )


def test_counted_tokens_come_first_and_others_are_made_harmless():
    found = inputs()
    assert int(found.counted.number) == 3
    assert found.counted.order.tolist() == [0, 1, 3, 2]
    assert found.targets.tolist() == [0, 5, 0, 6]
    assert not found.models[0].hidden[2].any()


def test_a_counted_target_that_is_no_word_is_unknown():
    assert np.isnan(inputs().known(jnp.zeros(4))).tolist() == [False, False, False, True]
    assert np.isnan(inputs(targets=(-1, 0, 0, 0)).known(jnp.zeros(4))).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("vocabulary", "keep", "chunk_tokens"), [(49152, True, 512), (151936, False, 1024)])
def test_logits_are_kept_where_enough_tokens_fit(vocabulary, keep, chunk_tokens):
    found = inputs(vocabulary, vocab_size=None)
    assert (found.keep, found.plan.chunk_tokens) == (keep, chunk_tokens)
    assert inputs(vocabulary, vocab_size=None, keep_logits=not keep).keep is not keep
    assert found.teacher().plan.chunk_tokens == 1024
