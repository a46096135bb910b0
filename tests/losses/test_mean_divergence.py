"""The mean of every per-token loss: its definition, padding, the linear twin, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_cases import logits_of, random_case

from atkd_jax import losses

NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")
OPTIONS = {
    "generalized_jsd": {"beta": 0.3},
    "skewed_forward_kl": {"alpha": 0.2},
    "skewed_reverse_kl": {"alpha": 0.2},
    "adaptive_kl": {"head_mass": 0.7},
    "uncertainty_weighted_kl": {"gamma": 0.5},
}
ALL = (*NAMES, "adaptive_kl", "uncertainty_weighted_kl", "cross_entropy")


def arguments(name, case):
    arrays = {"student_logits": logits_of(case, "student"), "mask": case["mask"]}
    if name != "cross_entropy":
        arrays["teacher_logits"] = logits_of(case, "teacher")
    if name in ("uncertainty_weighted_kl", "cross_entropy"):
        arrays["targets"] = case["targets"]
    return arrays


@pytest.mark.parametrize("name", ALL)
def test_it_is_the_mean_over_the_counted_tokens(name):
    arrays, options = arguments(name, random_case(1)), OPTIONS.get(name, {}) | {"temperature": 1.5}
    value, diagnostics = losses.mean_divergence(**arrays, divergence=name, **options)
    mask = arrays.pop("mask")
    per_token = getattr(losses, name)(**arrays, **options)
    np.testing.assert_allclose(value, np.asarray(per_token, np.float64)[mask].mean(), rtol=2e-6)
    assert int(diagnostics["counted_tokens"]) == mask.sum()


@pytest.mark.parametrize("name", [*NAMES, "cross_entropy"])
def test_it_is_the_linear_one_of_full_logits(name):
    case, options = random_case(2), OPTIONS.get(name, {})
    value, _ = losses.mean_divergence(**arguments(name, case), divergence=name, **options)
    of_hidden = {each: array for each, array in case.items() if each != "targets" or name == "cross_entropy"}
    np.testing.assert_allclose(value, losses.linear_divergence(**of_hidden, divergence=name, **options)[0], rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_does_not_count_has_no_influence(name):
    arrays = arguments(name, random_case(3))
    mask, options = arrays["mask"], OPTIONS.get(name, {})
    garbage = dict(arrays)
    for each in ("student_logits", "teacher_logits"):
        if each in arrays:
            garbage[each] = jnp.where(mask[..., None], arrays[each], jnp.nan)
    if "targets" in arrays:
        garbage["targets"] = np.where(mask, arrays["targets"], -100).astype(np.int32)

    @jax.jit
    @jax.value_and_grad
    def loss(student_logits, others):
        return losses.mean_divergence(student_logits=student_logits, **others, divergence=name, **options)[0]

    results = [loss(each.pop("student_logits"), each) for each in (arrays, garbage)]
    for plain, mine in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, plain)
    nothing = loss(np.zeros((2, 5, 11), np.float32), garbage | {"mask": np.zeros_like(mask)})
    assert not np.asarray(nothing[0]).any()
    assert not np.asarray(nothing[1]).any()


def test_what_is_missing_or_unknown_is_refused():
    logits, mask = np.zeros((2, 3), np.float32), np.ones(2, bool)
    with pytest.raises(TypeError, match="mean_divergence: forward_kl needs teacher_logits, got None; pass it"):
        losses.mean_divergence(student_logits=logits, mask=mask)
    with pytest.raises(TypeError, match="mean_divergence: cross_entropy needs targets, got None; pass it"):
        losses.mean_divergence(student_logits=logits, mask=mask, divergence="cross_entropy")
    with pytest.raises(ValueError, match=r"mean_divergence: divergence must be 'forward_kl' or .*, got 'kl'; choose"):
        losses.mean_divergence(student_logits=logits, teacher_logits=logits, mask=mask, divergence="kl")
