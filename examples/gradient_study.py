"""Which tokens pull the student where, the gradients of TKD and DKD against UNC: `python examples/gradient_study.py`.

In KL the pull of DKD is multiplied by UNC, so that where the teacher is sure the student is taught the target and next
to nothing of the alternatives. The table shows that damping, token group by token group.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax import losses


class Pulls(NamedTuple):
    """Of every token, `[tokens]`: UNC, and the norm of each term's gradient by the student's logits."""

    uncertainty: jax.Array
    target_kd: jax.Array
    diversity_kd: jax.Array
    damped_diversity_kd: jax.Array


@jax.jit
def pulls(student_logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array) -> Pulls:
    """Returns how strongly each token pulls; tokens do not mix, so one gradient of the sum has all of theirs."""

    def gradient_norms(term: str) -> jax.Array:
        def total(student_logits: jax.Array) -> jax.Array:
            terms = losses.decoupled_terms(
                student_logits=student_logits, teacher_logits=teacher_logits, targets=targets
            )
            return jnp.sum(getattr(terms, term))

        return jnp.linalg.norm(jax.grad(total)(student_logits), axis=-1)

    uncertainty = losses.teacher_uncertainty(teacher_logits=teacher_logits, targets=targets)
    diversity = gradient_norms("diversity_kd")
    return Pulls(uncertainty, gradient_norms("target_kd"), diversity, uncertainty * diversity)


def table(found: Pulls, groups: int = 5) -> list[Pulls]:
    """Returns the means within groups of equally many tokens, by rising UNC."""
    order = jnp.argsort(found.uncertainty)
    parts = [jnp.array_split(values[order], groups) for values in found]
    return [Pulls(*(float(jnp.mean(part)) for part in group)) for group in zip(*parts, strict=True)]


def main() -> list[Pulls]:
    """Draws a teacher and a student that half agrees with it, prints the table and returns it."""
    shared_key, own_key, target_key = jax.random.split(jax.random.key(0), 3)
    teacher_logits = 4 * jax.random.normal(shared_key, (2000, 200))
    student_logits = teacher_logits / 2 + jax.random.normal(own_key, teacher_logits.shape)
    targets = jax.random.categorical(target_key, teacher_logits)
    rows = table(pulls(student_logits, teacher_logits, targets))
    print("   UNC   |dTKD|   |dDKD|   |UNC dDKD|   (by the student's logits, mean over a fifth of the tokens)")
    for row in rows:
        print(f"{row.uncertainty:6.3f} {row.target_kd:8.4f} {row.diversity_kd:8.4f} {row.damped_diversity_kd:12.4f}")
    return rows


if __name__ == "__main__":
    main()
