"""The linear forms against the full ones and NumPy: whatever the blocks, chunks, padding, widths, caps and meshes."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_cases import assert_same, differentiated, logits_of, random_case, value_and_gradients

from atkd_jax import losses

SHARES = {"generalized_jsd": "beta", "skewed_forward_kl": "alpha", "skewed_reverse_kl": "alpha"}
NAMES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation", "skewed_forward_kl", "skewed_reverse_kl")


@cache
def full_atkd(temperature=1.0, caps=(None, None), vocab_size=None, **options):
    def function(**case):
        student, teacher = (
            logits_of(case, name, softcap=cap, vocab_size=vocab_size)
            for name, cap in zip(("student", "teacher"), caps, strict=True)
        )
        arrays = {"targets": case["targets"], "mask": case["mask"]}
        arrays |= {"student_logits": student, "teacher_logits": teacher}
        return losses.atkd(temperature=temperature, **arrays, **options)[0]

    return function


@cache
def linear_atkd(**options):
    return lambda **case: losses.linear_atkd(**case, **options)[0]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(("block_words", "chunk_tokens"), [(11, 10), (4, 10), (3, 4), (1, 1), (64, 64)])
@pytest.mark.parametrize("keep_logits", [True, False])
def test_atkd_is_that_of_the_full_logits_whatever_the_cut(direction, block_words, chunk_tokens, keep_logits):
    case = random_case()
    cut = {"block_words": block_words, "chunk_tokens": chunk_tokens, "keep_logits": keep_logits}
    mine = value_and_gradients(linear_atkd(direction=direction, **cut), case)
    assert_same(mine, value_and_gradients(full_atkd(direction=direction), case))


@pytest.mark.parametrize("keep_logits", [True, False])
def test_bias_softcaps_temperature_and_padded_heads_of_different_widths(keep_logits):
    case = random_case(1, bias=True)
    for name, columns in (("student", 3), ("teacher", 6)):
        case[f"{name}_head"] = np.pad(case[f"{name}_head"], ((0, 0), (0, columns)), constant_values=7.0)
        case[f"{name}_bias"] = np.pad(case[f"{name}_bias"], (0, columns), constant_values=7.0)
    caps = {"student_softcap": 3.0, "teacher_softcap": 2.0}
    options = {"temperature": 1.5, "vocab_size": 11, "hard_fraction": 0.3, "normalizer": "total_tokens"}
    mine = value_and_gradients(
        linear_atkd(block_words=4, chunk_tokens=3, keep_logits=keep_logits, **caps, **options), case
    )
    plain = value_and_gradients(full_atkd(caps=(3.0, 2.0), **options), case)
    for gradients in (mine[1], plain[1]):
        assert not np.asarray(gradients["student_head"])[:, 11:].any()
    assert_same(mine, plain)


@cache
def full_terms(divergence):
    def function(**case):
        logits = {f"{model}_logits": logits_of(case, model) for model in ("student", "teacher")}
        parts = losses.decoupled_divergence(**logits, targets=case["targets"], divergence=divergence)
        return jnp.sum(jnp.where(case["mask"], jnp.sin(parts.target_kd) + parts.diversity_kd**2, 0))

    return function


@pytest.mark.parametrize("kept_words", [4, 8])
@pytest.mark.parametrize("chunk_tokens", [64, 4])
@pytest.mark.parametrize("divergence", ["forward_kl", "generalized_jsd"])
def test_a_part_of_the_words_is_kept(monkeypatch, kept_words, chunk_tokens, divergence):
    case = random_case(5)
    tokens = case["targets"].size
    monkeypatch.setattr("atkd_jax.losses.linear_inputs._KEPT_BYTES", 8 * tokens * (kept_words + 1))
    cut = {"block_words": 4, "chunk_tokens": chunk_tokens}

    def terms(**case):
        mask = case["mask"]
        parts = losses.linear_decoupled_terms(**case, divergence=divergence, **cut)
        return jnp.sum(jnp.where(mask, jnp.sin(parts.target_kd) + parts.diversity_kd**2, 0))

    assert_same(value_and_gradients(terms, case), value_and_gradients(full_terms(divergence), case))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    block_words=st.sampled_from([2, 5]),
    vocabulary=st.sampled_from([1, 2, 11]),
    direction=st.sampled_from(["forward", "reverse"]),
)
def test_terms_agree_with_numpy(oracle, seed, block_words, vocabulary, direction):
    case = random_case(seed, vocabulary=vocabulary)
    mask = case.pop("mask")
    terms = losses.linear_decoupled_terms(**case, mask=mask, direction=direction, block_words=block_words)
    logits = [np.float64(case[f"{name}_hidden"]) @ np.float64(case[f"{name}_head"]) for name in ("student", "teacher")]
    if vocabulary > 1:
        with np.errstate(invalid="ignore"):
            expected = oracle.decoupled(*logits, case["targets"], direction)
    else:
        expected = np.zeros((2, *mask.shape))
    for mine, theirs in zip(terms, expected, strict=False):
        np.testing.assert_allclose(np.asarray(mine)[mask], theirs[mask], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_sits_on_every_divergence(name):
    """With a temperature, at which the gate does not read; and each token's terms are those of the whole logits."""
    case, options = random_case(10), {"divergence": name, "beta": 0.3, "alpha": 0.2, "temperature": 1.5}
    cut = {"block_words": 4, "chunk_tokens": 3}
    for keep_logits in (True, False):
        mine = value_and_gradients(linear_atkd(keep_logits=keep_logits, **cut, **options), case)
        assert_same(mine, value_and_gradients(full_atkd(**options), case))

    @jax.jit
    def both(case):
        logits = {f"{model}_logits": logits_of(case, model) for model in ("student", "teacher")}
        plain = losses.decoupled_divergence(**logits, targets=case["targets"], **options)
        return losses.linear_decoupled_terms(**case, **cut, **options), plain

    for one, other in zip(*both(case), strict=True):
        np.testing.assert_allclose(np.asarray(one)[case["mask"]], np.asarray(other)[case["mask"]], rtol=1e-5, atol=1e-6)


def test_any_weighting_composes_outside_of_the_primitive():
    """Cotangents of every field that the student moves, and of the teacher's, which it does not."""
    case = random_case(4)
    case.pop("mask")
    weights = np.random.default_rng(4).uniform(size=(5, *case["targets"].shape)).astype(np.float32)

    def weighted(terms):
        return sum(jnp.sum(weight * term) for weight, term in zip(weights, terms, strict=True))

    def full(**case):
        student, teacher = logits_of(case, "student"), logits_of(case, "teacher")
        return weighted(losses.decoupled_terms(student_logits=student, teacher_logits=teacher, targets=case["targets"]))

    def linear(**case):
        return weighted(losses.linear_decoupled_terms(**case, block_words=4, chunk_tokens=3))

    assert_same(value_and_gradients(linear, case), value_and_gradients(full, case))


def test_values_per_token():
    case = random_case(5)
    total, diagnostics = losses.linear_atkd(**case)
    shares, _ = losses.linear_atkd(**case, per_token=True)
    assert shares.shape == case["mask"].shape
    assert not np.asarray(shares)[~case["mask"]].any()
    np.testing.assert_allclose(np.sum(shares), total, rtol=1e-6)
    full = losses.atkd(
        student_logits=logits_of(case, "student"),
        teacher_logits=logits_of(case, "teacher"),
        targets=case["targets"],
        mask=case["mask"],
    )
    assert diagnostics.keys() == full[1].keys()
    for name in diagnostics:
        np.testing.assert_allclose(diagnostics[name], full[1][name], rtol=1e-5, err_msg=name)
    values, counted = losses.linear_divergence(**case, per_token=True)
    mean, _ = losses.linear_divergence(**case)
    assert int(counted["counted_tokens"]) == case["mask"].sum()
    np.testing.assert_allclose(np.asarray(values).sum() / case["mask"].sum(), mean, rtol=1e-6)


def test_what_does_not_count_has_no_influence():
    case = random_case(6)
    plain = value_and_gradients(linear_atkd(), case)
    hidden = dict(case, targets=np.where(case["mask"], case["targets"], -100).astype(np.int32))
    for name in ("student_hidden", "teacher_hidden"):
        hidden[name] = np.where(case["mask"][..., None], case[name], np.nan).astype(np.float32)
    mine = value_and_gradients(linear_atkd(), hidden)
    np.testing.assert_array_equal(mine[0], plain[0])
    for name in plain[1]:
        np.testing.assert_array_equal(mine[1][name], plain[1][name])
    nothing = dict(case, mask=np.zeros_like(case["mask"]))
    value, gradients = value_and_gradients(linear_atkd(), nothing)
    assert value == 0
    assert not any(np.asarray(gradient).any() for gradient in gradients.values())


# Few cuts, each a compilation: of more and of fewer words and tokens than there are, which they divide or do not.
@settings(max_examples=6)
@given(
    padding=st.sampled_from([1, 6]),
    block_words=st.sampled_from([1, 4, 12]),
    chunk_tokens=st.sampled_from([1, 5, 12]),
    divergence=st.sampled_from([None, *NAMES]),
)
def test_padding_and_cuts_have_no_influence(padding, block_words, chunk_tokens, divergence):
    case = random_case(13)
    longer = {name: array if name.endswith("head") else with_padding(array, padding) for name, array in case.items()}
    cut = {"block_words": block_words, "chunk_tokens": chunk_tokens}
    mine = value_and_gradients(linear_atkd(divergence=divergence, **cut), longer)
    assert not np.asarray(mine[1]["student_hidden"])[:, case["mask"].shape[1] :].any()
    mine[1]["student_hidden"] = mine[1]["student_hidden"][:, : case["mask"].shape[1]]
    assert_same(mine, value_and_gradients(linear_atkd(divergence=divergence), case), rtol=1e-5)


def with_padding(array, length):
    return np.concatenate([array, np.zeros((array.shape[0], length, *array.shape[2:]), array.dtype)], axis=1)


@jax.jit
def every_loss(case):
    """Returns the value of ATKD and of each divergence."""
    found = {name: losses.linear_divergence(**case, divergence=name, block_words=4)[0] for name in NAMES}
    return found | {"atkd": losses.linear_atkd(**case, block_words=4)[0]}


@pytest.mark.parametrize("name", ["student_hidden", "teacher_hidden"])
def test_a_counted_nan_is_not_passed_over(name):
    case = random_case(6)
    case["mask"][0, 0] = True
    assert np.isfinite(list(every_loss(case).values())).all()
    case[name][0, 0, 0] = np.nan
    assert np.isnan(list(every_loss(case).values())).all()


@pytest.mark.parametrize("target", [-1, 11])
def test_a_counted_target_outside_of_the_vocabulary_is_not_passed_over(target):
    case = random_case(6)
    case["mask"][0, 0], case["targets"][0, 0] = True, target
    assert np.isnan(losses.linear_decoupled_terms(**case).target_kd[0, 0])
    student = {name: case[name] for name in ("student_hidden", "student_head", "targets", "mask")}
    assert np.isnan(losses.linear_divergence(**student, divergence="cross_entropy")[0])


def test_large_logits_and_excluded_words_leave_gradients_finite():
    case = random_case(7, bias=True)
    case["student_head"] = case["student_head"] * np.float32(1e4)
    case["teacher_head"] = case["teacher_head"] * np.float32(1e4)
    for name in ("student_bias", "teacher_bias"):
        case[name][[2, 3, 4, 5]] = -np.inf
    case["targets"] = np.zeros_like(case["targets"])
    for direction in ("forward", "reverse"):
        mine = value_and_gradients(linear_atkd(direction=direction, block_words=4), case)
        assert np.isfinite(mine[0])
        assert all(np.isfinite(gradient).all() for gradient in mine[1].values())


def test_bfloat16_hidden_states_and_heads():
    case = random_case(8, (2, 16), (32, 48), 300)
    narrow = {
        name: jnp.asarray(array, jnp.bfloat16) if array.dtype == np.float32 else array for name, array in case.items()
    }
    wide = {name: np.asarray(array, case[name].dtype) for name, array in narrow.items()}
    mine = value_and_gradients(linear_atkd(block_words=64, chunk_tokens=8), narrow)
    plain = value_and_gradients(full_atkd(), wide)
    assert mine[0].dtype == jnp.float32
    np.testing.assert_allclose(mine[0], plain[0], rtol=1e-4)
    for name, gradient in mine[1].items():
        assert gradient.dtype == jnp.bfloat16
        theirs = np.asarray(plain[1][name])
        error = np.linalg.norm(np.asarray(gradient, np.float32) - theirs) / np.linalg.norm(theirs)
        assert error < 2.0**-7


@pytest.mark.parametrize(("tokens", "most_gib"), [(2048, 0.20), (4096, 0.22)])
def test_memory_does_not_grow_with_vocabulary_or_tokens(tokens, most_gib):
    """Beside its outputs, the gradient needs blocks of logits; those of all tokens would be 1.2 GiB or 2.3, twice."""
    shapes = {
        "student_hidden": ((1, tokens, 1024), jnp.float32),
        "student_head": ((1024, 151936), jnp.float32),
        "teacher_hidden": ((1, tokens, 1024), jnp.float32),
        "teacher_head": ((1024, 151936), jnp.float32),
        "targets": ((1, tokens), jnp.int32),
        "mask": ((1, tokens), jnp.bool_),
    }
    case = {name: jax.ShapeDtypeStruct(*kind) for name, kind in shapes.items()}
    rest = {name: array for name, array in case.items() if not name.startswith("student")}
    function = jax.jit(jax.value_and_grad(lambda student, rest: linear_atkd()(**student, **rest)))
    compiled = function.lower(differentiated(case), rest).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < most_gib * 2**30


class TestErrors:
    def call(self, function=losses.linear_atkd, **changes):
        return function(**(random_case() | changes))

    def test_widths(self):
        with pytest.raises(
            ValueError,
            match=r"linear_atkd: student_hidden \[\.\.\., width\] and student_head \[width, vocab\] must have the same "
            r"width, got \(2, 5, 4\) and \(11, 4\); a tied embedding \[vocab, width\] has to be transposed",
        ):
            self.call(student_head=np.zeros((11, 4), np.float32))

    def test_positions(self):
        with pytest.raises(ValueError, match=r"must have the same positions, got \(2, 5\) and \(2, 4\); only"):
            self.call(teacher_hidden=np.zeros((2, 4, 6), np.float32))

    def test_columns(self):
        with pytest.raises(ValueError, match="must have the same number of columns, got 11 and 12; pass vocab_size"):
            self.call(teacher_head=np.zeros((6, 12), np.float32))
        with pytest.raises(ValueError, match="vocab_size must be between 1 and 11, the columns that there are, got 12"):
            self.call(vocab_size=12)

    def test_bias(self):
        with pytest.raises(ValueError, match=r"one number for each column of student_head, shape \(11,\)"):
            self.call(student_bias=np.zeros(10, np.float32))

    def test_types(self):
        with pytest.raises(TypeError, match="teacher_head must be of floating type, got int32; pass activations"):
            self.call(teacher_head=np.zeros((6, 11), np.int32))
        with pytest.raises(TypeError, match="block_words must be a Python integer, got float; pass a count"):
            self.call(block_words=2.0)
        with pytest.raises(TypeError, match="temperature must be a Python number, got ArrayImpl; pass one"):
            self.call(temperature=jnp.float32(1))

    def test_numbers(self):
        with pytest.raises(ValueError, match="chunk_tokens must be at least 1, got 0; choose another number"):
            self.call(chunk_tokens=0)
        with pytest.raises(ValueError, match="linear_atkd: temperature must be positive and finite, got 0"):
            self.call(temperature=0)
        with pytest.raises(ValueError, match=r"a softcap must be a positive number or None, got -1\.0; None"):
            self.call(student_softcap=-1.0)
