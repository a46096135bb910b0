import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.losses.log_space import relative_entropy, target_margin, without_target
from atkd_jax.losses.token_terms import Found, Question


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_a_kl_made_of_its_parts_is_that_of_the_logits(name):
    student, teacher = jax.random.normal(jax.random.key(0), (2, 9, 7)) * 3
    targets = jnp.arange(9) % 7

    def from_parts(student):
        rests = without_target(teacher, targets), without_target(student, targets)
        divergence = relative_entropy(*(rests[::-1] if name == "reverse_kl" else rests))
        margins = target_margin(student, targets), target_margin(teacher, targets)
        return Question(name).terms(Found(divergence, *margins, jnp.zeros(9)))["divergence"].sum()

    def from_logits(student):
        return getattr(losses, name)(student_logits=student, teacher_logits=teacher).sum()

    mine, plain = (jax.value_and_grad(f)(student) for f in (from_parts, from_logits))
    np.testing.assert_allclose(mine[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(mine[1], plain[1], rtol=1e-4, atol=1e-6)


def test_terms_are_named_by_the_question():
    found = Found(*[jnp.ones(3)] * 4)
    assert set(Question().terms(found)) == {"cross_entropy"}
    assert set(Question("total_variation").terms(found)) == {"cross_entropy", "divergence"}
    assert set(Question("forward_kl", has_targets=False).terms(found)) == {"divergence"}
    parts = Question("generalized_jsd", decoupled=True).terms(found)
    assert set(parts) == {"cross_entropy", "target_kd", "diversity_kd"}


def test_a_weight_of_zero_drops_an_infinite_term():
    found = Found(jnp.array([jnp.inf, 1.0]), jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
    weights = {"divergence": jnp.array([0.0, 2.0])}
    assert float(Question("forward_kl", has_targets=False).weighted(found, weights)) == 2.0
