import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import evaluate_terms, make_objective, weighted_sum


def test_weight_zero_silences_a_term_that_is_not_finite():
    weights = {"a": jnp.array([1.0, 0.0, 2.0])}
    value, gradient = jax.value_and_grad(lambda term: weighted_sum(weights, {"a": term}))(
        jnp.array([3.0, jnp.nan, 1.0])
    )
    assert float(value) == 5.0
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 2.0])


def test_the_teacher_gets_no_gradient_and_uncounted_logits_are_never_read():
    objective = make_objective(ObjectiveConfig(name="forward_kl"))
    mask = jnp.array([True, False, True])
    student = jax.random.normal(jax.random.key(0), (3, 5))
    teacher = jax.random.normal(jax.random.key(1), (3, 5))
    targets = jnp.array([1, 2, 3])
    weighting = objective.weighting(jnp.zeros(3), mask)

    def loss(student, teacher):
        return evaluate_terms(
            objective, weighting, student_logits=student, teacher_logits=teacher, targets=targets, mask=mask
        )[0]

    clean, (by_student, by_teacher) = jax.value_and_grad(loss, argnums=(0, 1))(student, teacher)
    dirty, (by_dirty, _) = jax.value_and_grad(loss, argnums=(0, 1))(
        student.at[1].set(jnp.nan), teacher.at[1].set(jnp.inf)
    )
    assert float(clean) == float(dirty)
    np.testing.assert_array_equal(by_student, by_dirty)
    assert not by_student[1].any()
    assert not by_teacher.any()
