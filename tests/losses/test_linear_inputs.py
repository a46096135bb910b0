import jax
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


KL, JSD = Question("forward_kl", decoupled=True), Question("generalized_jsd", decoupled=True)


@pytest.mark.parametrize(
    ("question", "cut", "tokens", "vocabulary", "expected"),
    [
        # A chunk of 512 tokens is kept whole, and the gradient formed going forward ...
        (KL, {"summed": True}, 512, 49152, (True, 49152, 512)),
        # ... but not at the price of a pass for the gate, where most of all tokens' logits are kept anyway.
        (KL, {"summed": True, "gated": True}, 512, 32000, (False, 32000, 1024)),
        (KL, {"summed": True, "gated": True}, 512, 49152, (False, 49152, 1024)),
        (KL, {"summed": True, "gated": True}, 4096, 49152, (True, 49152, 512)),
        # Too many words for that.
        (KL, {"summed": True}, 512, 151936, (False, 51200, 1024)),
        (KL, {"summed": True}, 2048, 151936, (False, 4096, 1024)),
        (KL, {"summed": True}, 65536, 151936, (False, 0, 1024)),
        # A divergence that sweeps twice has its logits kept, of fewer tokens at a time.
        (JSD, {"summed": True}, 2048, 151936, (True, 151936, 176)),
        (JSD, {"summed": True}, 2048, 10**6, (True, 10**6, 64)),
        (JSD, {}, 2048, 10**6, (False, 4096, 1024)),
        # What the caller says.
        (KL, {"summed": True, "keep_logits": True}, 2048, 151936, (True, 151936, 512)),
        (KL, {"summed": True, "keep_logits": False}, 8, 100, (False, 0, 1024)),
        (KL, {"keep_logits": True}, 8, 100, (False, 100, 1024)),
    ],
)
def test_what_is_kept_takes_the_fewest_products_within_its_memory(question, cut, tokens, vocabulary, expected):
    cut = Cut(None, 2048, None, **({"keep_logits": None} | cut), vocab_axis=None, token_axes=())
    arrays = (jax.ShapeDtypeStruct((tokens, 2), jnp.float32), jax.ShapeDtypeStruct((2, vocabulary), jnp.float32))
    targets, mask = jax.ShapeDtypeStruct((tokens,), jnp.int32), jax.ShapeDtypeStruct((tokens,), bool)
    found = []

    def plan(hidden, head, targets, mask):
        model = Model(hidden, head, None)
        ready = prepare("f", question, model, model, (None, None), targets, mask, 1.0, cut)
        found.append((ready.summed, ready.plan.kept_columns, ready.plan.chunk_tokens))
        assert ready.teacher().plan.kept_columns == 0
        assert ready.teacher().plan.chunk_tokens == 1024

    jax.eval_shape(plan, *arrays, targets, mask)
    assert found == [expected]
