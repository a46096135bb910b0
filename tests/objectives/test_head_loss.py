from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective, target_log_probs
from atkd_jax.sharding import make_mesh

ROWS, LENGTH, VOCAB = 3, 5, 13


def inputs(dtype=jnp.float32, rows=ROWS):
    keys = jax.random.split(jax.random.key(0), 6)
    student_hidden = jax.random.normal(keys[0], (rows, LENGTH, 6), dtype)
    student_head = jax.random.normal(keys[1], (6, VOCAB))
    teacher_hidden = jax.random.normal(keys[2], (rows, LENGTH, 8), dtype)
    teacher_head = jax.random.normal(keys[3], (8, VOCAB))
    targets = jax.random.randint(keys[4], (rows, LENGTH), 0, VOCAB)
    mask = jax.random.bernoulli(keys[5], 0.6, (rows, LENGTH))
    return student_hidden, student_head, teacher_hidden, teacher_head, targets, mask


def value_and_gradients(arrays, objective, chunk_tokens, vocab_size=VOCAB, mesh=None):
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = arrays

    def loss(student_hidden, student_head):
        log_probs = target_log_probs(
            hidden=teacher_hidden, head=teacher_head, targets=targets, mask=mask, vocab_size=vocab_size, mesh=mesh
        )
        weighting = objective.weighting(log_probs, mask)
        return head_loss(
            objective,
            student_hidden=student_hidden,
            heads=Heads(student_head, teacher_head, vocab_size),
            tokens=Tokens(teacher_hidden, targets, mask, weighting._replace(scalars={})),
            chunk_tokens=chunk_tokens,
            mesh=mesh,
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(student_hidden, student_head)


def assert_same(one, other, rtol=1e-5):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 64])
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

    expected = jax.jit(jax.value_and_grad(full, argnums=(0, 1)))(student_hidden, student_head)
    (value, _), gradients = value_and_gradients(arrays, make_objective(ObjectiveConfig()), chunk_tokens)
    assert_same((value, gradients), expected)


@pytest.mark.parametrize("name", ["atkd", "reverse_kl", "cross_entropy"])
def test_chunks_give_the_value_metrics_and_gradients_of_one_piece(name):
    objective = make_objective(ObjectiveConfig(name=name, cross_entropy_weight=0.25))
    assert_same(value_and_gradients(inputs(), objective, 4), value_and_gradients(inputs(), objective, 64))


def test_bfloat16_sums_over_chunks_in_float32():
    objective = make_objective(ObjectiveConfig())
    arrays = inputs(jnp.bfloat16)
    assert_same(value_and_gradients(arrays, objective, 2), value_and_gradients(arrays, objective, 64), rtol=2e-2)
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


@cache
def on_one_device(name):
    """Returns the objective, its inputs, and what one device makes of them."""
    objective = make_objective(ObjectiveConfig(name=name, cross_entropy_weight=0.25, temperature=1.5))
    arrays = inputs(rows=8)
    return objective, arrays, value_and_gradients(arrays, objective, 3)


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (2, 2), (1, 4), (1, 8)])
@pytest.mark.parametrize("name", ["atkd", "generalized_jsd", "cross_entropy"])
def test_every_mesh_gives_one_devices_value_metrics_and_gradients(fsdp, tensor, name):
    """13 words over 2, 4 or 8 devices; the rows that count differ in number from device to device."""
    objective, arrays, one = on_one_device(name)
    assert_same(one, value_and_gradients(arrays, objective, 3, mesh=make_mesh(fsdp=fsdp, tensor=tensor)))


def test_the_teacher_gets_no_gradient():
    student_hidden, student_head, teacher_hidden, teacher_head, targets, mask = inputs()
    objective = make_objective(ObjectiveConfig())
    weighting = objective.weighting(jnp.where(mask, -1.0, 0.0), mask)

    def loss(teacher_hidden, teacher_head):
        return head_loss(
            objective,
            student_hidden=student_hidden,
            heads=Heads(student_head, teacher_head, VOCAB),
            tokens=Tokens(teacher_hidden, targets, mask, weighting._replace(scalars={})),
            chunk_tokens=4,
        )[0]

    assert not any(gradient.any() for gradient in jax.grad(loss, argnums=(0, 1))(teacher_hidden, teacher_head))
