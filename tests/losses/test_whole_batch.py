"""Whole-batch objectives: the golden case, boolean selection in NumPy, and everything that must not matter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atkd_jax import losses

# direction, easy_weight -> loss, as the design writes them down.
GOLDEN = {
    ("forward", 0.2): 0.8988934221,
    ("forward", 0.5): 0.6519658548,
    ("forward", 0.9): 0.3227290984,
    ("reverse", 0.2): 1.0835639811,
    ("reverse", 0.5): 0.7801114577,
    ("reverse", 0.9): 0.3755080933,
}
OPTIONS = ("hard_fraction", "easy_weight", "direction", "normalizer", "temperature")


def uncompiled(student, teacher, targets, mask, **options):
    return losses.atkd(student_logits=student, teacher_logits=teacher, targets=targets, mask=mask, **options)


ours = jax.jit(uncompiled, static_argnames=OPTIONS)
gradient = jax.jit(jax.grad(lambda *arrays, **options: uncompiled(*arrays, **options)[0]), static_argnames=OPTIONS)


def random_case(seed=0, shape=(3, 8), vocabulary=9):
    rng = np.random.default_rng(seed)
    student, teacher = (2 * rng.normal(size=(2, *shape, vocabulary))).astype(np.float32)
    return student, teacher, rng.integers(0, vocabulary, shape).astype(np.int32), rng.uniform(size=shape) < 0.7


@pytest.mark.parametrize(("direction", "easy_weight"), GOLDEN)
@pytest.mark.parametrize("precise", [True, False])
def test_golden_case(golden, direction, easy_weight, precise):
    with jax.enable_x64(precise):
        dtype = np.float64 if precise else np.float32
        arrays = golden.student_logits.astype(dtype), golden.teacher_logits.astype(dtype), golden.targets, golden.mask
        loss, _ = ours(*arrays, direction=direction, easy_weight=easy_weight)
        assert loss.dtype == dtype
    np.testing.assert_allclose(loss, GOLDEN[direction, easy_weight], atol=1e-10 if precise else 1e-6, rtol=0)


@pytest.mark.parametrize("precise", [True, False])
def test_golden_gradient(golden, precise):
    with jax.enable_x64(precise):
        dtype = np.float64 if precise else np.float32
        arrays = golden.student_logits.astype(dtype), golden.teacher_logits.astype(dtype), golden.targets, golden.mask
        norm = np.linalg.norm(np.asarray(gradient(*arrays)))
    np.testing.assert_allclose(norm, 0.2647417284, atol=1e-10 if precise else 1e-6, rtol=0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("normalizer", ["group_mean", "total_tokens"])
@pytest.mark.parametrize("hard_fraction", [0.0, 0.3, 1.0])
def test_agrees_with_boolean_selection_in_numpy(oracle, direction, normalizer, hard_fraction):
    student, teacher, targets, mask = random_case()
    options = {"direction": direction, "hard_fraction": hard_fraction, "easy_weight": 0.3}
    loss, _ = ours(student, teacher, targets, mask, normalizer=normalizer, **options)
    expected = oracle.atkd(student, teacher, targets, mask, total=normalizer == "total_tokens", **options)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


def test_diagnostics(oracle):
    student, teacher, targets, mask = random_case(1)
    _, diagnostics = ours(student, teacher, targets, mask, hard_fraction=0.4)
    uncertainty = 1 - oracle.target(oracle.softmax(teacher), targets)
    hard = oracle.hard(uncertainty, mask, 0.4)
    easy = mask & ~hard
    tkd, dkd = oracle.decoupled(student, teacher, targets)
    expected = {
        "counted_tokens": mask.sum(),
        "easy_share": easy.sum() / mask.sum(),
        "uncertainty_threshold": uncertainty[hard].min(),
        "uncertainty_mean": uncertainty[mask].mean(),
        "target_kd_hard": tkd[hard].mean(),
        "target_kd_easy": tkd[easy].mean(),
        "diversity_kd_hard": dkd[hard].mean(),
        "diversity_kd_easy": dkd[easy].mean(),
    }
    assert diagnostics.keys() == expected.keys()
    for name, value in expected.items():
        assert diagnostics[name].shape == ()
        np.testing.assert_allclose(diagnostics[name], value, rtol=1e-5, err_msg=name)


def test_decoupled_kd_agrees_with_numpy(oracle):
    student, teacher, targets, mask = random_case(2)
    tkd, dkd = oracle.decoupled(student, teacher, targets)
    function = partial(losses.decoupled_kd, teacher_logits=teacher, targets=targets, mask=mask)
    loss, diagnostics = function(student_logits=student, target_weight=2.0, diversity_weight=0.5)
    np.testing.assert_allclose(loss, (2 * tkd + 0.5 * dkd)[mask].mean(), rtol=2e-6)
    np.testing.assert_allclose(diagnostics["target_kd_mean"], tkd[mask].mean(), rtol=2e-6)
    np.testing.assert_allclose(diagnostics["diversity_kd_mean"], dkd[mask].mean(), rtol=2e-6)
    assert int(diagnostics["counted_tokens"]) == mask.sum()
    tkd, dkd = oracle.decoupled(student, teacher, targets, "reverse")
    np.testing.assert_allclose(
        function(student_logits=student, direction="reverse")[0], (tkd + dkd)[mask].mean(), rtol=2e-6
    )


@pytest.mark.parametrize("name", ["generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl"])
def test_decoupled_kd_of_another_divergence(name):
    student, teacher, targets, mask = random_case(11)
    logits = {"student_logits": student, "teacher_logits": teacher}
    options = {"divergence": name, "beta": 0.3, "alpha": 0.2, "temperature": 1.5}
    terms = losses.decoupled_divergence(**logits, targets=targets, **options)
    loss, _ = losses.decoupled_kd(**logits, targets=targets, mask=mask, target_weight=2.0, **options)
    expected = np.asarray(2 * terms.target_kd + terms.diversity_kd)[mask].mean()
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["forward", "reverse"]))
def test_what_does_not_count_has_no_influence(seed, direction):
    """Masked is sliced: garbage at uncounted positions changes neither value nor gradient."""
    student, teacher, targets, mask = random_case(seed)
    rng = np.random.default_rng(seed)
    garbage = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), size=student.shape)
    hidden = [np.where(mask[..., None], x, garbage) for x in (student, teacher)]
    outside = np.where(mask, targets, -100).astype(np.int32)
    loss, diagnostics = ours(*hidden, outside, mask, direction=direction)
    plain, plain_diagnostics = ours(student, teacher, targets, mask, direction=direction)
    np.testing.assert_array_equal(loss, plain)
    for name in diagnostics:
        np.testing.assert_array_equal(diagnostics[name], plain_diagnostics[name], err_msg=name)
    slopes = gradient(*hidden, outside, mask, direction=direction)
    np.testing.assert_array_equal(slopes, gradient(student, teacher, targets, mask, direction=direction))
    np.testing.assert_array_equal(np.asarray(slopes)[~mask], 0)


@pytest.mark.parametrize("padding", [1, 5])
def test_padding_has_no_influence(padding):
    student, teacher, targets, mask = random_case(3)
    longer = [
        np.concatenate([x, np.zeros((x.shape[0], padding, *x.shape[2:]), x.dtype)], 1)
        for x in (student, teacher, targets, mask)
    ]
    np.testing.assert_allclose(ours(*longer)[0], ours(student, teacher, targets, mask)[0], rtol=1e-6)
    slopes = np.asarray(gradient(*longer))[:, : mask.shape[1]]
    np.testing.assert_allclose(slopes, gradient(student, teacher, targets, mask), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("microbatches", [1, 2, 3, 6])
def test_the_split_into_microbatches_has_no_influence(microbatches):
    """The recipe of the gate's docstring: gate over all, then add up the weighted sums."""
    student, teacher, targets, mask = random_case(4, (6, 8))
    log_probs = losses.target_log_prob(logits=teacher, targets=targets)
    hard = losses.hard_token_mask(target_log_probs=log_probs, mask=mask)
    weights = losses.atkd_token_weights(hard=hard, mask=mask)

    @jax.jit
    @jax.value_and_grad
    def part(student, teacher, targets, on_target, on_diversity):
        terms = losses.decoupled_terms(student_logits=student, teacher_logits=teacher, targets=targets)
        return jnp.sum(on_target * terms.target_kd + on_diversity * terms.diversity_kd)

    parts = zip(*(np.split(np.asarray(x), microbatches) for x in (student, teacher, targets, *weights)), strict=True)
    values, slopes = zip(*(part(*arrays) for arrays in parts), strict=True)
    np.testing.assert_allclose(sum(values), ours(student, teacher, targets, mask)[0], rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(slopes), gradient(student, teacher, targets, mask), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mesh_shape", [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_the_mesh_has_no_influence(mesh_shape):
    student, teacher, targets, mask = random_case(5, (8, 6), 16)
    mesh = jax.make_mesh(mesh_shape, ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = lambda array, *axes: jax.device_put(  # noqa: E731
        array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    )
    placed = [place(x, "data", None, "tensor") for x in (student, teacher)] + [
        place(x, "data") for x in (targets, mask)
    ]
    np.testing.assert_allclose(ours(*placed)[0], ours(student, teacher, targets, mask)[0], rtol=1e-5)
    np.testing.assert_allclose(gradient(*placed), gradient(student, teacher, targets, mask), rtol=1e-5, atol=1e-8)


def test_no_logits_are_gathered_where_the_vocabulary_is_split():
    student, teacher, targets, mask = random_case(5, (8, 6), 16)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = [
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data", None, "tensor"), ("data",))
    ]
    function = jax.jit(
        jax.value_and_grad(lambda *arrays: uncompiled(*arrays)[0]), in_shardings=split[:1] * 2 + split[1:] * 2
    )
    compiled = function.lower(student, teacher, targets, mask).compile().as_text()
    gathered = [line for line in compiled.splitlines() if "all-gather(" in line or "all-to-all(" in line]
    # The gate ranks the tokens of all devices: one number per token, and not one per token and word.
    assert len(gathered) == 1
    assert f"f32[{mask.size}]" in gathered[0]


@pytest.mark.parametrize("vocabulary", [1, 2, 9])
@pytest.mark.parametrize("tokens", [1, 2])
def test_few_tokens(vocabulary, tokens):
    student, teacher, targets, _ = random_case(6, (1, tokens), vocabulary)
    mask = np.ones((1, tokens), bool)
    loss, diagnostics = ours(student, teacher, targets, mask)
    assert np.isfinite(loss)
    assert all(np.isfinite(value) for value in diagnostics.values())
    assert np.isfinite(gradient(student, teacher, targets, mask)).all()


def test_nothing_counts():
    student, teacher, targets, mask = random_case(7)
    mask = np.zeros_like(mask)
    loss, diagnostics = ours(student, teacher, targets, mask)
    assert loss == 0
    assert all(value == 0 for value in diagnostics.values())
    np.testing.assert_array_equal(gradient(student, teacher, targets, mask), np.zeros_like(student))
    loss, diagnostics = losses.decoupled_kd(student_logits=student, teacher_logits=teacher, targets=targets, mask=mask)
    assert loss == 0
    assert all(value == 0 for value in diagnostics.values())


def test_a_term_of_weight_zero_is_dropped_even_where_it_is_inf():
    """An easy token's TKD is not in the loss: a student that excludes the target leaves it finite."""
    student, teacher, targets, mask = random_case(8, (1, 3))
    teacher[0, 0, targets[0, 0]] = 20.0
    student[0, 0, targets[0, 0]] = -np.inf
    mask[:] = True
    loss, _ = ours(student, teacher, targets, mask)
    assert np.isfinite(loss)
    assert np.isfinite(gradient(student, teacher, targets, mask)).all()


@pytest.mark.parametrize("place", ["student", "teacher", "target"])
def test_a_counted_nan_or_unknown_target_is_not_passed_over(place):
    student, teacher, targets, mask = random_case(8)
    mask[:] = True
    {"student": student, "teacher": teacher}.get(place, student)[0, 0, 0] = 0.0 if place == "target" else np.nan
    targets[0, 0] = 9 if place == "target" else targets[0, 0]
    assert np.isnan(ours(student, teacher, targets, mask)[0])
    terms = losses.decoupled_terms(student_logits=student, teacher_logits=teacher, targets=targets)
    assert np.isnan(terms.target_kd[0, 0])


def test_bfloat16_logits_give_a_float32_loss(oracle):
    student, teacher, targets, mask = random_case(9, (4, 16), 300)
    student, teacher = jnp.asarray(student, jnp.bfloat16), jnp.asarray(teacher, jnp.bfloat16)
    loss, diagnostics = ours(student, teacher, targets, mask)
    assert loss.dtype == jnp.float32
    assert all(value.dtype == jnp.float32 for value in diagnostics.values())
    expected = oracle.atkd(np.asarray(student, np.float64), np.asarray(teacher, np.float64), targets, mask)
    np.testing.assert_allclose(loss, expected, rtol=3e-6)
    assert gradient(student, teacher, targets, mask).dtype == jnp.bfloat16


def test_the_gate_is_constant_for_the_gradient_and_the_teacher_is_not():
    with jax.enable_x64(True):
        student, teacher, targets, mask = random_case(10, (2, 4), 5)
        student, teacher = student.astype(np.float64), teacher.astype(np.float64)
        function = lambda student, teacher: uncompiled(student, teacher, targets, mask)[0]  # noqa: E731
        jax.test_util.check_grads(jax.jit(function), (student, teacher), order=1, modes=["fwd", "rev"], eps=1e-6)


@pytest.mark.parametrize("function", [losses.atkd, losses.decoupled_kd])
class TestErrors:
    def call(self, function, **changes):
        student, teacher, targets, mask = random_case()
        arguments = {"student_logits": student, "teacher_logits": teacher, "targets": targets, "mask": mask}
        return function(**(arguments | changes))

    def test_mask(self, function):
        name = function.__name__
        with pytest.raises(TypeError, match=rf"{name}: mask must be of boolean type, got float32; write mask\.astype"):
            self.call(function, mask=np.ones((3, 8), np.float32))
        with pytest.raises(
            ValueError, match=rf"{name}: mask must have one value for every position, shape \(3, 8\), got \(3, 7\)"
        ):
            self.call(function, mask=np.ones((3, 7), bool))

    def test_targets(self, function):
        with pytest.raises(
            ValueError, match=rf"{function.__name__}: targets must have one token id for every position"
        ):
            self.call(function, targets=np.zeros((3, 7), np.int32))

    def test_direction(self, function):
        with pytest.raises(
            ValueError, match=rf"{function.__name__}: direction must be 'forward' or 'reverse', got 'fwd'"
        ):
            self.call(function, direction="fwd")

    def test_logits(self, function):
        with pytest.raises(
            ValueError, match=rf"{function.__name__}: student_logits and teacher_logits must have the same shape"
        ):
            self.call(function, teacher_logits=np.zeros((3, 8, 10), np.float32))

    def test_numbers(self, function):
        if function is losses.atkd:
            with pytest.raises(
                ValueError, match=r"atkd: hard_fraction must be between 0 and 1, got 2\.0; choose a share"
            ):
                self.call(function, hard_fraction=2)
            with pytest.raises(ValueError, match=r"atkd: easy_weight must be between 0 and 1, got -1\.0; choose"):
                self.call(function, easy_weight=-1)
            with pytest.raises(ValueError, match="atkd: normalizer must be 'group_mean' or 'total_tokens', got 'sum'"):
                self.call(function, normalizer="sum")
        else:
            with pytest.raises(
                ValueError, match=r"decoupled_kd: target_weight must not be negative, got -1\.0; choose"
            ):
                self.call(function, target_weight=-1)
