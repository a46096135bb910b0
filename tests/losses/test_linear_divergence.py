"""Divergences and weighted sums from hidden states and heads against those of the whole logits."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from linear_cases import assert_same, logits_of, random_case, value_and_gradients

from atkd_jax import losses

SHARES = {"generalized_jsd": "beta", "skewed_forward_kl": "alpha", "skewed_reverse_kl": "alpha"}
NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")


@pytest.mark.parametrize(
    ("name", "share"), [(name, share) for name in NAMES for share in (0.0, 0.3, 1.0) if name in SHARES or share == 0.3]
)
def test_divergences_are_those_of_the_full_logits(name, share):
    case = random_case(2)
    case.pop("targets")
    extra = {SHARES[name]: share} if name in SHARES else {}

    def full(**case):
        student, teacher = logits_of(case, "student"), logits_of(case, "teacher")
        values = getattr(losses, name)(student_logits=student, teacher_logits=teacher, temperature=0.7, **extra)
        return jnp.sum(jnp.where(case["mask"], values, 0)) / jnp.sum(case["mask"]).astype(jnp.float32)

    def linear(keep_logits, **case):
        options = {"temperature": 0.7, "block_words": 4, "chunk_tokens": 3, "keep_logits": keep_logits}
        return losses.linear_divergence(**case, divergence=name, **extra, **options)[0]

    plain = value_and_gradients(full, case)
    for keep_logits in (True, False):
        assert_same(value_and_gradients(partial(linear, keep_logits), case), plain)


def test_cross_entropy_needs_no_teacher():
    case = {name: array for name, array in random_case(3).items() if not name.startswith("teacher")}

    def full(**case):
        values = losses.cross_entropy(student_logits=logits_of(case, "student"), targets=case["targets"])
        return jnp.sum(jnp.where(case["mask"], values, 0)) / jnp.sum(case["mask"]).astype(jnp.float32)

    def linear(**case):
        return losses.linear_divergence(**case, divergence="cross_entropy", block_words=4, chunk_tokens=3)[0]

    assert_same(value_and_gradients(linear, case), value_and_gradients(full, case))


def test_target_log_probs_are_those_of_the_logits():
    case = random_case(13, bias=True)
    arrays = {name: case[f"student_{name}"] for name in ("hidden", "head", "bias")}
    case["targets"][0, 0], case["mask"][0, 0] = 11, True
    mine = losses.linear_target_log_prob(
        **arrays,
        targets=case["targets"],
        mask=case["mask"],
        temperature=0.5,
        softcap=4.0,
        block_words=4,
        chunk_tokens=3,
    )
    logits = logits_of(case, "student", softcap=4.0)
    plain = losses.target_log_prob(logits=logits, targets=case["targets"], temperature=0.5)
    np.testing.assert_allclose(mine, np.where(case["mask"], plain, 0), rtol=1e-5, atol=1e-6)
    assert np.isnan(mine[0, 0])


@pytest.mark.parametrize("keep_logits", [True, False])
@pytest.mark.parametrize("parts", [True, False])
def test_a_weighted_sum_is_that_of_the_terms(keep_logits, parts):
    """With cross-entropy at temperature 1, and gradients by the weights."""
    case = random_case(14)
    names = ("target_kd", "diversity_kd", "cross_entropy") if parts else ("divergence", "cross_entropy")
    rng = np.random.default_rng(0)
    case["student_weights"] = {name: rng.uniform(size=case["mask"].shape).astype(np.float32) for name in names}
    kind = {"divergence": "skewed_forward_kl", "alpha": 0.3, "temperature": 1.5}

    def linear(student_weights, **case):
        cut = {"block_words": 4, "chunk_tokens": 3, "keep_logits": keep_logits}
        return losses.linear_weighted_sum(**case, weights=student_weights, **kind, **cut)[0]

    def full(student_weights, **case):
        logits = {f"{name}_logits": logits_of(case, name) for name in ("student", "teacher")}
        terms = losses.decoupled_divergence(**logits, targets=case["targets"], **kind)._asdict()
        terms["divergence"] = losses.skewed_forward_kl(**logits, alpha=0.3, temperature=1.5)
        terms["cross_entropy"] = losses.cross_entropy(student_logits=logits["student_logits"], targets=case["targets"])
        sums = (jnp.sum(jnp.where(case["mask"], weight * terms[name], 0)) for name, weight in student_weights.items())
        return sum(sums)

    mine, plain = value_and_gradients(linear, case), value_and_gradients(full, case)
    for by in (mine[1], plain[1]):
        by |= by.pop("student_weights")
    assert_same(mine, plain)


class TestErrors:
    def call(self, function=losses.linear_weighted_sum, **changes):
        return function(**(random_case() | changes))

    def test_divergence(self):
        with pytest.raises(ValueError, match=r"divergence must be 'forward_kl' or .*, got 'kl'; choose"):
            self.call(losses.linear_divergence, divergence="kl")
        with pytest.raises(TypeError, match="linear_divergence: reverse_kl needs teacher_head, got None; pass it"):
            self.call(losses.linear_divergence, divergence="reverse_kl", teacher_head=None)
        with pytest.raises(TypeError, match="linear_divergence: cross_entropy needs targets, got None; pass it"):
            self.call(losses.linear_divergence, divergence="cross_entropy", targets=None)

    def test_weights(self):
        ones = np.ones((2, 5), np.float32)
        with pytest.raises(ValueError, match=r"weights must be on 'divergence', .* got \['dkd'\]; rename them"):
            self.call(weights={"dkd": ones})
        with pytest.raises(ValueError, match="on the divergence or on its two parts, got"):
            self.call(weights={"divergence": ones, "target_kd": ones})
        with pytest.raises(ValueError, match="weights on divergence must have one number for every position"):
            self.call(weights={"divergence": ones[:, :4]})
        with pytest.raises(TypeError, match="weights on divergence must be of floating type, got int32; convert them"):
            self.call(weights={"divergence": ones.astype(np.int32)})
