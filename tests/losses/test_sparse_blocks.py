"""The blocked view of the listed words against that of whole logits, with every cotangent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_cases import random_case
from sparse_cases import keys_of, top_k_signal

from atkd_jax.losses.sparse_blocks import listed_student
from atkd_jax.losses.sparse_terms import asked, student_of_logits
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.vocabulary_blocks import Counted, Model, Plan


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_the_view_and_any_pull_on_it_are_those_of_the_logits(divergence):
    """With a tail sample forward KL asks for the words alone, reverse KL for what is outside of them too."""
    case = random_case(1, (6,), bias=True)
    targets = case["targets"]
    hidden, head, bias = (case[f"student_{name}"] for name in ("hidden", "head", "bias"))
    logits = case["teacher_hidden"] @ case["teacher_head"]
    signal = top_k_signal(logits, targets, keys_of(targets), k=3, tail_draws=2)
    asks = asked(signal, Question(divergence), 11)
    assert asks.needs_outside() == (divergence == "reverse_kl")
    ids = asks.listed_ids(signal, jnp.asarray(targets))
    plan = Plan(11, 4, 4, 1.0, (None,))
    counted = Counted(jnp.arange(6, dtype=jnp.int32), jnp.int32(6))

    def blocked(hidden, head, bias):
        return listed_student(plan, asks, Model(hidden, head, bias), jnp.asarray(targets), ids, counted)

    def whole(hidden, head, bias):
        return student_of_logits(asks, hidden @ head + bias[None], jnp.asarray(targets), ids)

    def view_and_pull(view, pulls):
        found, pull = jax.vjp(view, hidden, head, bias)
        # No one pulls at what is not there.
        return found, pull(jax.tree.map(lambda by, array: jnp.where(jnp.isfinite(array), by, 0), pulls, found))

    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(whole, hidden, head, bias)
    pulls = jax.tree.map(lambda array: rng.normal(size=array.shape).astype(np.float32), shapes)
    mine, by_blocked = jax.jit(partial(view_and_pull, blocked))(pulls)
    theirs, by_whole = jax.jit(partial(view_and_pull, whole))(pulls)
    for name, one, other in zip(mine._fields, mine, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
    for one, other in zip(by_blocked, by_whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
