import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Tokens, head_loss, make_objective

ROWS, LENGTH, VOCAB = 3, 5, 13


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 6)
    student_hidden = jax.random.normal(keys[0], (ROWS, LENGTH, 6), dtype)
    student_head = jax.random.normal(keys[1], (6, VOCAB))
    teacher_hidden = jax.random.normal(keys[2], (ROWS, LENGTH, 8), dtype)
    teacher_head = jax.random.normal(keys[3], (8, VOCAB))
    targets = jax.random.randint(keys[4], (ROWS, LENGTH), 0, VOCAB)
    mask = jax.random.bernoulli(keys[5], 0.6, (ROWS, LENGTH))
    return student_hidden, student_head, teacher_hidden, teacher_head, targets, mask


def value_and_gradients(arrays, objective, chunk_tokens, vocab_size=VOCAB):
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = arrays
    logits = jnp.einsum("...d,dv->...v", teacher_hidden.astype(jnp.float32), teacher_head[:, :vocab_size])
    weighting = objective.weighting(losses.target_log_prob(logits=logits, targets=targets), mask)
    tokens = Tokens(teacher_hidden, targets, mask, weighting._replace(scalars={}))

    def loss(student_hidden, student_head):
        return head_loss(
            objective,
            student_hidden=student_hidden,
            student_head=student_head,
            teacher_head=teacher_head,
            tokens=tokens,
            vocab_size=vocab_size,
            chunk_tokens=chunk_tokens,
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(student_hidden, student_head)


def assert_same(one, other, rtol=1e-5):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("chunk_tokens", [None, 1, 4, 64])
def test_equals_the_loss_of_the_whole_logits(chunk_tokens):
    arrays = inputs()
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = arrays

    def full(student_hidden, student_head):
        return losses.atkd(
            student_logits=student_hidden @ student_head,
            teacher_logits=teacher_hidden @ teacher_head,
            targets=targets,
            mask=mask,
        )[0]

    expected = jax.value_and_grad(full, argnums=(0, 1))(student_hidden, student_head)
    (value, _), gradients = value_and_gradients(arrays, make_objective(ObjectiveConfig()), chunk_tokens)
    assert_same((value, gradients), expected)


@pytest.mark.parametrize("name", ["atkd", "reverse_kl", "cross_entropy"])
def test_chunks_give_the_value_metrics_and_gradients_of_one_piece(name):
    objective = make_objective(ObjectiveConfig(name=name, cross_entropy_weight=0.25))
    assert_same(value_and_gradients(inputs(), objective, 4), value_and_gradients(inputs(), objective, None))


def test_bfloat16_sums_over_chunks_in_float32():
    objective = make_objective(ObjectiveConfig())
    arrays = inputs(jnp.bfloat16)
    assert_same(value_and_gradients(arrays, objective, 2), value_and_gradients(arrays, objective, None), rtol=2e-2)
    assert value_and_gradients(arrays, objective, 2)[1][1].dtype == jnp.float32


def test_columns_beyond_the_vocabulary_are_never_read():
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = inputs()
    targets = targets % 10
    objective = make_objective(ObjectiveConfig())
    cut = (student_hidden, student_head[:, :10], teacher_hidden, teacher_head[:, :10], targets, mask)
    (value, _), (by_hidden, by_head) = value_and_gradients(cut, objective, 4, vocab_size=10)
    wide = (
        student_hidden,
        student_head.at[:, 10:].set(jnp.nan),
        teacher_hidden,
        teacher_head.at[:, 10:].set(jnp.nan),
        targets,
        mask,
    )
    (wide_value, _), (wide_by_hidden, wide_by_head) = value_and_gradients(wide, objective, 4, vocab_size=10)
    assert_same((value, by_hidden, by_head), (wide_value, wide_by_hidden, wide_by_head[:, :10]))
    assert not wide_by_head[:, 10:].any()


def test_no_counted_token_gives_zero():
    *arrays, mask = inputs()
    (value, _), gradients = value_and_gradients(
        (*arrays, jnp.zeros_like(mask)), make_objective(ObjectiveConfig()), chunk_tokens=4
    )
    assert float(value) == 0.0
    assert all(not gradient.any() for gradient in gradients)


def test_hidden_states_that_are_not_finite_do_no_harm_where_nothing_counts():
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = inputs()
    dirty = jnp.where(mask[..., None], student_hidden, jnp.nan)
    objective = make_objective(ObjectiveConfig())
    rest = student_head, teacher_hidden, teacher_head, targets, mask
    clean = value_and_gradients((student_hidden, *rest), objective, 4)
    assert int(mask.sum()) % 4, "the last chunk must have places to spare"
    assert_same(clean, value_and_gradients((dirty, *rest), objective, 4))
