"""What is asked of the student for each kind of signal, and what storage may do to a signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparse_cases import random_case, signal_of

from atkd_jax import losses
from atkd_jax.losses.sparse_terms import asked, student_of_logits
from atkd_jax.losses.token_terms import Question


def signals():
    _, teacher, targets = random_case()
    return {kind: signal_of(kind, teacher, targets) for kind in ("top_k", "top_k_tail", "rest_sample")}


@pytest.mark.parametrize(
    ("kind", "divergence", "words", "outside"),
    [
        ("top_k", "forward_kl", 3, True),
        ("top_k_tail", "forward_kl", 7, False),
        ("top_k_tail", "total_variation", 3, True),
        ("rest_sample", "forward_kl", 6, False),
        ("rest_sample", None, 0, False),
    ],
)
def test_no_more_is_asked_than_is_needed(kind, divergence, words, outside):
    _, _, targets = random_case()
    signal = signals()[kind]
    asks = asked(signal, Question(divergence), 9)
    assert asks.listed_ids(signal, jnp.asarray(targets)).shape == (3, 4, words)
    assert asks.needs_outside() == outside


def test_the_target_is_never_among_the_words():
    _, _, targets = random_case()
    for signal in signals().values():
        ids = np.asarray(asked(signal, Question("forward_kl"), 9).listed_ids(signal, jnp.asarray(targets)))
        assert not (ids == targets[..., None]).any()


def test_the_view_of_logits_agrees_with_numpy(oracle):
    student, _, targets = random_case()
    signal = signals()["top_k"]
    asks = asked(signal, Question("forward_kl"), 9)
    ids = asks.listed_ids(signal, jnp.asarray(targets))
    view = student_of_logits(asks, jnp.asarray(student), jnp.asarray(targets), ids)
    q = oracle.softmax(student)
    np.put_along_axis(q, targets[..., None], 0, -1)
    q /= q.sum(-1, keepdims=True)
    listed = np.where(np.asarray(ids) >= 0, np.take_along_axis(q, np.maximum(ids, 0), -1), 0)
    np.testing.assert_allclose(np.exp(view.listed), listed, rtol=1e-5)
    np.testing.assert_allclose(np.exp(view.outside), 1 - listed.sum(-1), rtol=1e-4)


def test_rounding_in_storage_makes_no_divergence_negative():
    """Half precision, as a compact encoding keeps it, of a teacher that the student equals."""
    _, teacher, targets = random_case()
    signal = signals()["top_k"]
    stored = signal._replace(
        log_probs=signal.log_probs.astype(jnp.float16).astype(jnp.float32),
        log_rest_mass=signal.log_rest_mass.astype(jnp.float16).astype(jnp.float32),
    )
    names = ("forward_kl", "reverse_kl", "total_variation")

    @jax.jit
    def of(student):
        return [
            losses.sparse_divergence(student_logits=student, signal=stored, targets=targets, divergence=name)
            for name in names
        ]

    for value in of(teacher):
        assert (np.asarray(value) >= 0).all()
        np.testing.assert_allclose(value, 0, atol=2e-3)
