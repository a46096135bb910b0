"""From what a pass over the vocabulary finds of a token to its terms: the last step of every form of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import pointwise
from atkd_jax.losses.decoupling import DecoupledTerms, damped, terms_of_margins


class Found(NamedTuple):
    """What a pass over the vocabulary finds, float32 `[tokens]` each.

    Attributes:
      divergence: of the two distributions, without the target or whole, as was asked; 0 if none was.
      student_margin: `log_space.target_margin` of the student.
      teacher_margin: of the teacher; 0 if there is none.
      plain_margin: of the student at temperature 1.
    """

    divergence: jax.Array
    student_margin: jax.Array
    teacher_margin: jax.Array
    plain_margin: jax.Array


@dataclass(frozen=True)
class Question:
    """What is asked of every token. Static.

    Attributes:
      divergence: a name of `pointwise.DIVERGENCES`, or None where there is no teacher.
      beta: of generalized_jsd.
      alpha: of the skewed KLs.
      decoupled: whether the divergence is taken apart into that of the target and that of the rest.
      has_targets: False where all targets are -1, and divergences are of whole distributions.
      plain: whether the student's margin is also wanted at temperature 1, where the loss has another one.
    """

    divergence: str | None = None
    beta: float = 0.5
    alpha: float = 0.1
    decoupled: bool = False
    has_targets: bool = True
    plain: bool = False

    def direction(self) -> str | None:
        """Returns "forward" or "reverse" where the divergence is that KL."""
        if self.divergence is None:
            return None
        return pointwise.kl_direction(self.divergence, beta=self.beta, alpha=self.alpha)

    def pointwise(self) -> pointwise.Terms:
        """Returns the terms of a divergence that is no KL."""
        assert self.divergence is not None
        return pointwise.terms_of(self.divergence, beta=self.beta, alpha=self.alpha)

    def of_rest(self) -> bool:
        """Returns whether the divergence is found of the distributions without the target."""
        return self.decoupled or not self.has_targets or self.direction() is not None

    def decoupled_terms(self, found: Found) -> DecoupledTerms:
        """Returns the terms of a divergence that is decoupled, or of a KL."""
        assert self.divergence is not None
        return decoupled_of(
            self.divergence,
            found.student_margin,
            found.teacher_margin,
            found.divergence,
            beta=self.beta,
            alpha=self.alpha,
        )

    def terms(self, found: Found) -> dict[str, jax.Array]:
        """Returns the terms that weights can be put on, `[tokens]` each."""
        result = {}
        if self.has_targets:
            margin = found.plain_margin if self.plain else found.student_margin
            result["cross_entropy"] = -jax.nn.log_sigmoid(margin)
        if self.divergence is None:
            return result
        direction = self.direction()
        if not self.has_targets or (direction is None and not self.decoupled):
            return result | {"divergence": found.divergence}
        parts = self.decoupled_terms(found)
        if self.decoupled:
            return result | {"target_kd": parts.target_kd, "diversity_kd": parts.diversity_kd}
        first_margin = found.student_margin if direction == "reverse" else found.teacher_margin
        whole = parts.target_kd + damped(jax.nn.sigmoid(-first_margin), parts.diversity_kd)
        return result | {"divergence": whole}

    def weighted(self, found: Found, weights: dict[str, jax.Array]) -> jax.Array:
        """Returns the sum of weight * term, a float32 scalar; a weight of 0 drops a term even where it is inf."""
        terms = self.terms(found)
        products = (jnp.where(weight != 0, weight * terms[name], 0) for name, weight in weights.items())
        return sum((jnp.sum(product) for product in products), start=jnp.zeros((), jnp.float32))


def decoupled_of(
    divergence: str,
    student_margin: jax.Array,
    teacher_margin: jax.Array,
    diversity_kd: jax.Array,
    *,
    beta: float,
    alpha: float,
) -> DecoupledTerms:
    """Returns the terms of `decoupled_divergence`, given both models' margins and the divergence of the rest."""
    direction = pointwise.kl_direction(divergence, beta=beta, alpha=alpha)
    terms = terms_of_margins(student_margin, teacher_margin, diversity_kd, direction or "forward")
    if direction is not None:
        return terms
    between = pointwise.terms_of(divergence, beta=beta, alpha=alpha)
    return terms._replace(target_kd=pointwise.summed(between(_coin(teacher_margin), _coin(student_margin))))


def _coin(margin: jax.Array) -> jax.Array:
    """Returns the log probabilities of the target and of the rest, `[..., 2]`, no less than -1e30."""
    sides = jnp.stack([margin, -margin], axis=-1)
    return jnp.maximum(jax.nn.log_sigmoid(sides), -1e30)
