"""Losses from sparse signals against the dense ones and NumPy: exact, below by no more than is said, or unbiased."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_cases import (
    FORWARD,
    NAMES,
    SHARES,
    coarse_logits,
    keys_of,
    listed,
    random_case,
    rest_sample,
    signal_of,
    top_k_signal,
)

from atkd_jax import losses

DRAWS = 10_000


def dense(name, student, teacher, targets):
    if name == "uncertainty_weighted_kl":
        return losses.uncertainty_weighted_kl(
            student_logits=student, teacher_logits=teacher, targets=targets, gamma=0.5
        )
    return getattr(losses, name)(student_logits=student, teacher_logits=teacher, **SHARES.get(name, {}))


def sparse(name, student, signal, targets):
    return losses.sparse_divergence(
        student_logits=student, signal=signal, targets=targets, divergence=name, gamma=0.5, **SHARES.get(name, {})
    )


def values_and_gradients(losses_of, student):
    """Returns every loss per token, and the gradient of its sum by the student's logits."""
    return {
        name: (loss(student), jax.grad(lambda student, loss=loss: jnp.sum(loss(student)))(student))
        for name, loss in losses_of.items()
    }


@jax.jit
def of_signal(student, signal, targets):
    names = (*NAMES, "uncertainty_weighted_kl", "target_kd", "cross_entropy")
    return values_and_gradients(
        {name: lambda student, name=name: sparse(name, student, signal, targets) for name in names}, student
    )


@jax.jit
def of_logits(student, teacher, targets):
    of = {name: lambda student, name=name: dense(name, student, teacher, targets) for name in NAMES}
    of["uncertainty_weighted_kl"] = lambda student: dense("uncertainty_weighted_kl", student, teacher, targets)
    of["target_kd"] = lambda student: losses.target_kd(student_logits=student, teacher_logits=teacher, targets=targets)
    of["cross_entropy"] = lambda student: losses.cross_entropy(student_logits=student, targets=targets)
    return values_and_gradients(of, student)


def assert_alike(mine, theirs, names):
    for name in names:
        for one, other in zip(mine[name], theirs[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6, err_msg=name)


def test_with_every_word_listed_each_loss_is_the_dense_one():
    student, teacher, targets = random_case()
    signal = top_k_signal(teacher, targets, k=9)
    mine, theirs = of_signal(student, signal, targets), of_logits(student, teacher, targets)
    assert_alike(mine, theirs, mine)


def test_with_few_words_each_loss_is_that_of_the_coarse_distributions(oracle):
    """Listed words, the target, and one cell of all others; in NumPy float64."""
    student, teacher, targets = random_case(1)
    signal = top_k_signal(teacher, targets, k=3)
    is_listed = listed(teacher, targets, 3)
    coarse = [coarse_logits(logits, is_listed) for logits in (student, teacher)]
    mine, theirs = of_signal(student, signal, targets), of_logits(student, teacher, targets)
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in NAMES:
            share = next(iter(SHARES.get(name, {}).values()), None)
            np.testing.assert_allclose(
                mine[name][0], oracle.divergence(name, *coarse, share=share), rtol=1e-5, atol=1e-6, err_msg=name
            )
    assert_alike(mine, theirs, ["target_kd", "cross_entropy"])


def test_both_parts_of_every_divergence_are_the_dense_ones_or_the_second_is_a_bound():
    student, teacher, targets = random_case(6)

    @jax.jit
    def parts(student, signal):
        given, names = {"student_logits": student, "targets": targets}, NAMES
        own = {name: losses.sparse_decoupled_divergence(**given, signal=signal, divergence=name) for name in names}
        whole = {name: losses.decoupled_divergence(**given, teacher_logits=teacher, divergence=name) for name in names}
        return own, whole

    own, whole = parts(student, top_k_signal(teacher, targets, k=9))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), own, whole)
    own, whole = parts(student, top_k_signal(teacher, targets, k=3))
    for name in NAMES:
        below = np.asarray(whole[name].diversity_kd - own[name].diversity_kd)
        assert (below > -2e-6).all()
        assert below.max() > 1e-3
        known = own[name]._replace(diversity_kd=whole[name].diversity_kd)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), known, whole[name])


def gaps(student_mass, teacher_mass):
    """Returns the most that a bounded loss may lie above that of the coarse distributions."""
    with np.errstate(divide="ignore", invalid="ignore"):
        beta, alpha = SHARES["generalized_jsd"]["beta"], SHARES["skewed_forward_kl"]["alpha"]

        def part(mass, whole):
            return np.where(mass > 0, mass * np.log(whole / np.where(mass > 0, mass, 1)), 0)

        p, q = beta * teacher_mass, (1 - beta) * student_mass
        mixtures = {
            "skewed_forward_kl": (teacher_mass, student_mass),
            "skewed_reverse_kl": (student_mass, teacher_mass),
        }
        result = {"generalized_jsd": part(p, p + q) + part(q, p + q)}
        for name, (first, second) in mixtures.items():
            result[name] = np.where(
                first > 0, first * np.log((alpha * first + (1 - alpha) * second) / np.maximum(alpha * first, 1e-300)), 0
            )
        return result | {"total_variation": np.minimum(student_mass, teacher_mass)}


@settings(max_examples=25)
@given(
    logits=hnp.arrays(np.float32, (2, 3, 4, 9), elements=st.floats(-8, 8, width=32)),
    targets=hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 8)),
)
def test_top_k_is_a_lower_bound_by_no_more_than_is_said(oracle, logits, targets):
    student, teacher = logits
    signal = top_k_signal(teacher, targets, k=3)
    mine, theirs = of_signal(student, signal, targets), of_logits(student, teacher, targets)
    # Ties are listed as the signal says.
    is_listed = np.zeros(teacher.shape, bool)
    np.put_along_axis(is_listed, np.asarray(signal.ids), True, -1)
    np.put_along_axis(is_listed, targets[..., None], True, -1)
    masses = [np.where(is_listed, 0, oracle.softmax(logits)).sum(-1) for logits in (student, teacher)]
    bounds = gaps(*masses)
    for name in (*NAMES, "uncertainty_weighted_kl"):
        below = np.asarray(theirs[name][0], np.float64) - np.asarray(mine[name][0], np.float64)
        tolerance = 2e-6 + 1e-5 * np.abs(theirs[name][0])
        assert (below >= -tolerance).all(), name
        if name in bounds:
            assert (below <= bounds[name] + tolerance).all(), name


@partial(jax.jit, static_argnames="kind")
def many_draws(student, teacher, targets, keys, kind):
    """Returns values and gradients of forward KL, its weighted sibling and DKD, of every draw."""

    def one(keys):
        if kind == "rest_sample":
            signal = losses.rest_sample(teacher_logits=teacher, targets=targets, draws=6, keys=keys)
        else:
            signal = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=2, tail_draws=4, keys=keys)
        if kind == "from_p":
            signal = known_attempt(teacher, targets, keys)
        return values_and_gradients(sampled(signal, targets), student)

    return jax.vmap(one)(keys)


def sampled(signal, targets):
    def diversity(student):
        arguments = {"student_logits": student, "signal": signal, "targets": targets}
        return losses.sparse_decoupled_divergence(**arguments).diversity_kd

    of = {name: lambda student, name=name: sparse(name, student, signal, targets) for name in FORWARD}
    return of | {"diversity_kd": diversity}


def known_attempt(teacher, targets, keys):
    """Draws from p, and drops the target from what was drawn."""
    drawn = jax.vmap(jax.vmap(lambda key, row: jax.random.categorical(key, row, shape=(6,))))(keys, teacher)
    counts = jnp.where(drawn == targets[..., None], 0, 1)
    exact = losses.top_k_signal(teacher_logits=teacher, targets=targets, k=1)
    return losses.RestSample(*exact[:3], jnp.where(counts > 0, drawn, -1).astype(jnp.int32), counts)


def deviations(kind):
    """Returns, per loss, how many standard errors the mean of value and gradient is off, at most."""
    student, teacher, targets = random_case(2, (2, 2), 7)
    targets = np.stack([targets[0], np.argmax(teacher[1], -1)]).astype(np.int32)
    keys = jax.random.split(jax.random.key(7), (DRAWS, *targets.shape))
    got = many_draws(student, teacher, targets, keys, kind)
    expected = of_logits(student, teacher, targets)
    diversity = partial(losses.diversity_kd, teacher_logits=teacher, targets=targets)
    expected |= values_and_gradients({"diversity_kd": lambda student: diversity(student_logits=student)}, student)
    result = {}
    for name, arrays in got.items():
        for number, (draws, whole) in enumerate(zip(arrays, expected[name], strict=True)):
            draws = np.asarray(draws, np.float64)
            # Rounding may not decide where nothing varies.
            spread = np.sqrt(draws.var(0) / DRAWS + 1e-14)
            result[name, ("value", "gradient")[number]] = np.abs((draws.mean(0) - whole) / spread).max()
    return result


@pytest.mark.parametrize("kind", ["rest_sample", "top_k_tail"])
def test_means_over_ten_thousand_draws_are_the_dense_value_and_gradient(kind):
    """Within 4.5 standard errors, of 4 values or 28 derivatives at a time."""
    for name, off in deviations(kind).items():
        assert off < 4.5, name


def test_drawing_from_p_and_dropping_the_target_is_biased():
    off = deviations("from_p")
    assert min(off["diversity_kd", part] for part in ("value", "gradient")) > 10
    assert min(off["forward_kl", part] for part in ("value", "gradient")) > 10


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_batch_losses_are_the_dense_ones_with_every_word_listed(direction, golden):
    student, teacher = (np.float32(logits) for logits in (golden.student_logits, golden.teacher_logits))
    arrays = {"targets": golden.targets, "mask": golden.mask, "direction": direction}
    signal = top_k_signal(teacher, golden.targets, k=5)

    @jax.jit
    def of_batch(student):
        pairs = {"atkd": (losses.sparse_atkd, losses.atkd), "kd": (losses.sparse_decoupled_kd, losses.decoupled_kd)}

        def value_and_gradient(loss, **of_teacher):
            return jax.value_and_grad(lambda x: loss(student_logits=x, **of_teacher, **arrays), has_aux=True)(student)

        return {
            name: (value_and_gradient(own, signal=signal), value_and_gradient(whole, teacher_logits=teacher))
            for name, (own, whole) in pairs.items()
        }

    got = of_batch(student)
    for mine, theirs in got.values():
        ((value, diagnostics), gradient), ((expected, known), by_student) = mine, theirs
        np.testing.assert_allclose(value, expected, rtol=2e-6)
        np.testing.assert_allclose(gradient, by_student, rtol=1e-5, atol=1e-7)
        assert diagnostics.keys() == known.keys()
        for name in known:
            np.testing.assert_allclose(diagnostics[name], known[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        got["atkd"][0][0][0], {"forward": 0.8988934221, "reverse": 1.0835639811}[direction], rtol=2e-6
    )


@pytest.mark.parametrize("kind", ["top_k", "rest_sample"])
def test_gate_and_tkd_are_exact_from_every_kind(golden, kind):
    student, teacher = (np.float32(logits) for logits in (golden.student_logits, golden.teacher_logits))
    arrays = {"targets": golden.targets, "mask": golden.mask}
    signal = top_k_signal(teacher, golden.targets, k=1)
    if kind == "rest_sample":
        signal = rest_sample(teacher, golden.targets, keys_of(golden.targets), draws=2)
    _, mine = jax.jit(losses.sparse_atkd)(student_logits=student, signal=signal, **arrays)
    _, theirs = jax.jit(losses.atkd)(student_logits=student, teacher_logits=teacher, **arrays)
    for name in ("easy_share", "uncertainty_threshold", "uncertainty_mean", "target_kd_hard", "target_kd_easy"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-6, err_msg=name)


def test_what_does_not_count_has_no_influence(golden):
    student, teacher = (np.float32(logits) for logits in (golden.student_logits, golden.teacher_logits))
    mask = golden.mask
    signal = top_k_signal(teacher, golden.targets, k=2)
    hidden = signal._replace(
        target_log_prob=jnp.where(mask, signal.target_log_prob, jnp.nan),
        ids=jnp.where(mask[..., None], signal.ids, 7),
        log_probs=jnp.where(mask[..., None], signal.log_probs, jnp.nan),
    )
    broken = np.where(mask[..., None], student, np.nan).astype(np.float32)
    targets = np.where(mask, golden.targets, -100).astype(np.int32)

    @jax.jit
    @jax.value_and_grad
    def loss(student, signal, targets):
        return losses.sparse_atkd(student_logits=student, signal=signal, targets=targets, mask=mask)[0]

    value, gradient = loss(broken, hidden, targets)
    expected, by_student = loss(student, signal, golden.targets)
    assert value == expected
    np.testing.assert_array_equal(gradient, by_student)


PATHOLOGICAL = st.sampled_from([-np.inf, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4])


@settings(max_examples=15)
@given(case=hnp.arrays(np.float32, (2, 3, 4, 9), elements=PATHOLOGICAL), target=st.integers(0, 8))
def test_gradients_are_finite_and_values_are_numbers_at_pathological_logits(case, target):
    student, teacher = (np.where(np.isneginf(x).all(-1, keepdims=True), np.float32(0), x) for x in case)
    targets = np.full((3, 4), target, np.int32)
    signal = top_k_signal(teacher, targets, k=3)
    for name, (value, gradient) in of_signal(student, signal, targets).items():
        assert not np.isnan(value).any(), name
        assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize("margin", [25.0, 1e4])
def test_a_saturated_teacher_still_teaches_the_rest(margin):
    """Nothing of p but the target is above float32's smallest step from 1, and DKD is whole."""
    teacher = np.array([[margin, 0.0, 1.0, 2.0]], np.float32)
    student, targets = np.array([[0.0, 1.0, 0.5, -1.0]], np.float32), np.array([0], np.int32)
    arrays = {"student_logits": student, "targets": targets}
    expected = jax.jit(losses.decoupled_terms)(teacher_logits=teacher, **arrays)
    signal = top_k_signal(teacher, targets, k=4)
    terms = jax.jit(losses.sparse_decoupled_divergence)(signal=signal, **arrays)
    for field, mine, theirs in zip(terms._fields, terms, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3 if margin > 100 else 1e-5, err_msg=field)


def test_a_vocabulary_of_two_leaves_no_diversity():
    student, teacher, targets = random_case(3, (4,), 2)
    signals = (
        top_k_signal(teacher, targets, k=1),
        rest_sample(teacher, targets, keys_of(targets), draws=2),
    )

    @jax.jit
    def both(student, signal):
        terms = losses.sparse_decoupled_divergence(student_logits=student, signal=signal, targets=targets)
        return terms.diversity_kd, sparse("forward_kl", student, signal, targets)

    for signal in signals:
        diversity, forward_kl = both(student, signal)
        np.testing.assert_allclose(diversity, 0, atol=1e-6)
        np.testing.assert_allclose(forward_kl, dense("forward_kl", student, teacher, targets), rtol=1e-5)


def test_an_unknown_target_is_not_passed_over():
    student, teacher, targets = random_case(4)
    signal = top_k_signal(teacher, targets, k=3)
    outside = np.full_like(targets, 9)
    terms = jax.jit(losses.sparse_decoupled_divergence)(student_logits=student, signal=signal, targets=outside)
    assert np.isnan(terms.target_kd).all()
    assert np.isnan(terms.teacher_target_log_prob).all()


def test_what_cannot_be_had_is_refused():
    student, teacher, targets = random_case(5)
    drawn = signal_of("rest_sample", teacher, targets)
    for name in NAMES[1:]:
        with pytest.raises(
            ValueError, match=f"{name} needs the teacher's probability of words that the student may say"
        ):
            sparse(name, student, drawn, targets)
    arrays = {"student_logits": student, "signal": drawn, "targets": targets, "mask": np.ones((3, 4), bool)}
    with pytest.raises(ValueError, match="reverse_kl needs the teacher's probability"):
        losses.sparse_atkd(**arrays, direction="reverse")
    with pytest.raises(ValueError, match="adaptive_kl sorts the whole vocabulary"):
        sparse("adaptive_kl", student, drawn, targets)
    # At the end of its share a divergence is the KL of that name.
    at_its_end = partial(losses.sparse_divergence, divergence="skewed_forward_kl", alpha=0)
    assert np.isfinite(jax.jit(at_its_end)(student_logits=student, signal=drawn, targets=targets)).all()
