"""The linear forms against those of logits, whatever the signal, the cut, the padding and the mesh."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from linear_cases import assert_same, differentiated, logits_of, value_and_gradients
from linear_cases import random_case as arrays_of
from sparse_cases import SHARES, signal_of

from atkd_jax import losses


def random_case(kind, seed=0, shape=(2, 5), **options):
    """Returns the student's arrays, targets and mask, and a signal of that kind."""
    case = arrays_of(seed, shape, **options)
    signal = signal_of(kind, logits_of(case, "teacher"), case["targets"], seed)
    return {name: array for name, array in case.items() if not name.startswith("teacher")} | {"signal": signal}


def linear(**options):
    return lambda **case: losses.sparse_linear_atkd(**case, **options)[0]


def of_logits(softcap=None, vocab_size=None, **options):
    def function(signal, targets, mask, **case):
        logits = logits_of(case, "student", softcap=softcap, vocab_size=vocab_size)
        return losses.sparse_atkd(student_logits=logits, signal=signal, targets=targets, mask=mask, **options)[0]

    return function


@pytest.mark.parametrize(
    ("kind", "chunk_tokens", "keep"),
    [("top_k", 3, True), ("top_k", 10, False), ("top_k_tail", 10, True), ("rest_sample", 3, False)],
)
def test_atkd_is_that_of_the_logits_whatever_the_cut(kind, chunk_tokens, keep):
    case = random_case(kind)
    mine = linear(block_words=4, chunk_tokens=chunk_tokens, keep_logits=keep)
    assert_same(value_and_gradients(mine, case), value_and_gradients(of_logits(), case))


def test_other_divergences_with_bias_softcap_and_a_padded_head():
    names = ("reverse_kl", "generalized_jsd", "skewed_forward_kl")
    case = random_case("top_k", 1, bias=True)
    case["student_head"] = np.pad(case["student_head"], ((0, 0), (0, 3)), constant_values=7.0)
    case["student_bias"] = np.pad(case["student_bias"], (0, 3), constant_values=7.0)
    cut = {"block_words": 4, "chunk_tokens": 3, "vocab_size": 11, "student_softcap": 3.0}

    def mine(**case):
        of = losses.sparse_linear_divergence
        return sum(of(**case, divergence=name, **SHARES.get(name, {}), **cut)[0] for name in names)

    def theirs(signal, targets, mask, **case):
        logits = logits_of(case, "student", softcap=3.0, vocab_size=11)
        given = {"student_logits": logits, "signal": signal, "targets": targets}
        each = [losses.sparse_divergence(**given, divergence=name, **SHARES.get(name, {})) for name in names]
        return sum(jnp.sum(jnp.where(mask, values, 0)) for values in each) / jnp.sum(mask).astype(jnp.float32)

    got = value_and_gradients(mine, case)
    assert not np.asarray(got[1]["student_head"])[:, 11:].any()
    assert_same(got, value_and_gradients(theirs, case))


def test_sums_of_terms_and_gradients_by_the_weights():
    case = random_case("rest_sample", 2)
    rng = np.random.default_rng(2)
    names = ("target_kd", "diversity_kd", "cross_entropy")
    weights = {name: rng.uniform(size=(2, 5)).astype(np.float32) for name in names}
    mask = case["mask"]

    def mine(weights):
        return losses.sparse_linear_weighted_sum(**case, weights=weights, block_words=4)

    (total, terms), by_weights = jax.jit(jax.value_and_grad(mine, has_aux=True))(weights)
    given = {"student_logits": logits_of(case, "student"), "signal": case["signal"], "targets": case["targets"]}
    expected = jax.jit(losses.sparse_decoupled_divergence)(**given)
    known = {
        "target_kd": expected.target_kd,
        "diversity_kd": expected.diversity_kd,
        "cross_entropy": -expected.student_target_log_prob,
    }
    for name in names:
        values = np.where(mask, known[name], 0)
        np.testing.assert_allclose(terms[name], values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(by_weights[name], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, sum((weights[name] * terms[name]).sum() for name in names), rtol=1e-5)


def test_terms_and_values_per_token():
    case = random_case("top_k", 3)
    mask = case["mask"]
    reverse = partial(losses.sparse_linear_decoupled_terms, block_words=4, direction="reverse")
    terms = jax.jit(reverse)(**case)
    per_token = partial(losses.sparse_linear_divergence, per_token=True, block_words=4)
    values, counted = jax.jit(per_token)(**case)
    given = {"student_logits": logits_of(case, "student"), "signal": case["signal"], "targets": case["targets"]}
    expected = jax.jit(partial(losses.sparse_decoupled_divergence, divergence="reverse_kl"))(**given)
    for field, mine, theirs in zip(terms._fields, terms, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(mine)[mask], np.asarray(theirs)[mask], rtol=1e-5, atol=1e-6, err_msg=field
        )
    np.testing.assert_allclose(
        values, np.where(mask, jax.jit(losses.sparse_divergence)(**given), 0), rtol=1e-5, atol=1e-6
    )
    assert int(counted["counted_tokens"]) == mask.sum()
    alone = {"targets": case["targets"], "mask": mask}
    cross_entropy, _ = jax.jit(partial(losses.sparse_linear_divergence, divergence="cross_entropy"))(**case)
    dense, _ = jax.jit(partial(losses.linear_divergence, divergence="cross_entropy"))(**differentiated(case), **alone)
    np.testing.assert_allclose(cross_entropy, dense, rtol=1e-6)


def test_what_does_not_count_has_no_influence():
    case = random_case("top_k", 4)
    mask = case["mask"]
    plain = value_and_gradients(linear(), case)
    signal = jax.tree.map(
        lambda array: jnp.where(
            mask.reshape(mask.shape + (1,) * (array.ndim - 2)), array, jnp.nan if array.dtype == jnp.float32 else 3
        ),
        case["signal"],
    )
    hidden = case | {"signal": signal, "targets": np.where(mask, case["targets"], -100).astype(np.int32)}
    hidden["student_hidden"] = np.where(mask[..., None], case["student_hidden"], np.nan).astype(np.float32)
    mine = value_and_gradients(linear(), hidden)
    np.testing.assert_array_equal(mine[0], plain[0])
    for name in plain[1]:
        np.testing.assert_array_equal(mine[1][name], plain[1][name])


@pytest.mark.parametrize("kind", ["top_k", "rest_sample"])
def test_tokens_and_words_may_be_split_over_devices(kind):
    """12 words over two devices, of which 11 are words; the gate is over the tokens of both rows of devices."""
    case = random_case(kind, 5, (2, 6))
    case["student_head"] = np.pad(case["student_head"], ((0, 0), (0, 1)), constant_values=7.0)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rest = {name: case[name] for name in ("signal", "targets", "mask")}
    cut = {"vocab_size": 11, "block_words": 4, "chunk_tokens": 4}

    def own(student_hidden, student_head, rest):
        given = {"student_hidden": student_hidden, "student_head": student_head}
        return losses.sparse_linear_atkd(**given, **rest, **cut, vocab_axis="tensor", token_axes=("data",))[0]

    split = jax.shard_map(own, mesh=mesh, in_specs=(P("data"), P(None, "tensor"), P("data")), out_specs=P())
    arguments = case["student_hidden"], case["student_head"], rest
    value, gradients = jax.jit(jax.value_and_grad(split, argnums=(0, 1)))(*arguments)
    whole = value_and_gradients(linear(**cut), case)
    assert_same((value, dict(zip(("student_hidden", "student_head"), gradients, strict=True))), whole)


def test_memory_does_not_grow_with_the_vocabulary():
    """Beside its outputs, the gradient needs blocks of logits; those of all tokens would be 1.2 GiB."""
    tokens, k = 2048, 64
    shapes = {
        "student_hidden": ((1, tokens, 1024), jnp.float32),
        "student_head": ((1024, 151936), jnp.float32),
        "targets": ((1, tokens), jnp.int32),
        "mask": ((1, tokens), jnp.bool_),
    }
    case = {name: jax.ShapeDtypeStruct(*kind) for name, kind in shapes.items()}
    number = jax.ShapeDtypeStruct((1, tokens), jnp.float32)
    ids, log_probs = (jax.ShapeDtypeStruct((1, tokens, k), kind) for kind in (jnp.int32, jnp.float32))
    rest = {"targets": case["targets"], "mask": case["mask"]}
    rest["signal"] = losses.TopKSignal(number, number, number, ids, log_probs, number)
    loss = linear(keep_logits=False)
    function = jax.jit(jax.value_and_grad(lambda student, rest: loss(**student, **rest)))
    compiled = function.lower(differentiated(case), rest).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * 2**30


def test_refusals_name_the_function_or_the_loss():
    case = random_case("rest_sample", 6)
    with pytest.raises(ValueError, match="reverse_kl needs the teacher's probability of words"):
        losses.sparse_linear_atkd(**case, direction="reverse")
    with pytest.raises(
        TypeError, match="sparse_linear_atkd: signal must be a TopKSignal or a RestSample, got NoneType"
    ):
        losses.sparse_linear_atkd(**(case | {"signal": None}))
    weights = {"target_kd": np.ones((2, 5), np.float32)}
    of = partial(losses.sparse_linear_weighted_sum, divergence="total_variation")
    total, _ = jax.jit(of)(**case, weights=weights)
    assert np.isfinite(total)
