"""The kernels against the same losses in ordinary JAX: interpreted here, and compiled for a TPU that is not here."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from linear_cases import assert_same, random_case, value_and_gradients

from atkd_jax import losses


def weighted_sum(weights, case, **options):
    """Returns the sum with its gradients by the student and the weights, and the terms."""

    def function(student, weights):
        return losses.linear_weighted_sum(**student, **rest, weights=weights, **options)

    student = {name: array for name, array in case.items() if name.startswith("student")}
    rest = {name: array for name, array in case.items() if name not in student}
    (value, terms), gradients = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))(student, weights)
    flat = gradients[0] | {f"weight of {name}": array for name, array in gradients[1].items()}
    return (value, flat), {name: np.asarray(term)[case["mask"]] for name, term in terms.items()}


# One block and a ragged one, several on each core with one too few on the last, and whole blocks only.
@pytest.mark.parametrize("vocabulary", [1, 2, 300, 600, 1024])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_terms_sum_and_gradients_are_those_of_the_blocks(vocabulary, divergence):
    case = random_case(7, shape=(3, 9), vocabulary=vocabulary)
    case["student_hidden"][~case["mask"]] = np.nan
    rng = np.random.default_rng(1)
    names = ("target_kd", "diversity_kd", "cross_entropy")
    weights = {name: rng.uniform(size=(3, 9)).astype(np.float32) for name in names}
    mine, terms = weighted_sum(weights, case, divergence=divergence, implementation="pallas", chunk_tokens=10)
    theirs, others = weighted_sum(weights, case, divergence=divergence)
    assert_same(mine, theirs)
    for name in names:
        np.testing.assert_allclose(terms[name], others[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_tokens_beyond_a_subtile_and_padded_heads_of_different_widths():
    case = random_case(3, shape=(300,), vocabulary=270)
    case["teacher_head"] = np.pad(case["teacher_head"], ((0, 0), (0, 300)), constant_values=np.nan)
    case["student_head"] = np.pad(case["student_head"], ((0, 0), (0, 5)), constant_values=np.nan)

    def atkd(**options):
        function = partial(losses.linear_atkd, vocab_size=270, temperature=2.0, direction="reverse", **options)
        return value_and_gradients(lambda **case: function(**case)[0], case)

    assert_same(atkd(implementation="pallas"), atkd())


def test_whole_divergences_without_targets():
    case = random_case(5, vocabulary=300)
    case.pop("targets")

    def mean(**options):
        return value_and_gradients(lambda **case: losses.linear_divergence(**case, **options)[0], case)

    assert_same(mean(implementation="pallas"), mean())


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_equal_and_saturated_distributions(scale):
    """With equal logits the gap is 0; with huge ones the sums are of one word, and exponentials of others vanish."""
    case = random_case(11, vocabulary=300)
    case["teacher_head"] *= scale
    weights = {name: np.ones((2, 5), np.float32) for name in ("target_kd", "diversity_kd")}
    mine, theirs = (weighted_sum(weights, case, implementation=name) for name in ("pallas", "xla"))
    assert np.isfinite(mine[0][0])
    assert_same(mine[0], theirs[0])


def test_bfloat16_hidden_states_and_float32_heads():
    case = random_case(6, shape=(40,), widths=(32, 48), vocabulary=300)
    for name in ("student_hidden", "teacher_hidden"):
        case[name] = jnp.asarray(case[name], jnp.bfloat16)

    def atkd(**options):
        value, gradients = value_and_gradients(lambda **case: losses.linear_atkd(**case, **options)[0], case)
        return value, {name: np.asarray(array, np.float32) for name, array in gradients.items()}

    mine, theirs = atkd(implementation="pallas"), atkd()
    np.testing.assert_allclose(mine[0], theirs[0], rtol=2e-5)
    for name, gradient in theirs[1].items():
        # A rounding of the slope to bfloat16 that goes the other way.
        np.testing.assert_allclose(mine[1][name], gradient, atol=2**-8 * np.abs(gradient).max(), err_msg=name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"implementation": "triton"}, "implementation must be"),
        ({"divergence": "generalized_jsd"}, "finds the forward and the reverse KL, got generalized_jsd"),
        ({"student_bias": jnp.zeros(11)}, "takes no bias"),
        ({"teacher_softcap": 30.0}, "takes no softcap"),
        ({"token_axes": ("data",)}, "takes no mapped axes"),
        ({"keep_logits": True}, "takes no keep_logits=True"),
    ],
)
def test_errors_say_what_the_kernels_do_not_take(options, words):
    with pytest.raises(ValueError, match=words):
        losses.linear_atkd(**random_case(), **{"implementation": "pallas"} | options)


def test_cross_entropy_needs_temperature_1():
    weights = {"divergence": np.ones((2, 5), np.float32)}
    with pytest.raises(ValueError, match="has one temperature"):
        losses.linear_weighted_sum(**random_case(), weights=weights, temperature=2.0, implementation="pallas")


def bytes_accessed(monkeypatch, *, tokens, vocabulary, **options):
    """Returns what XLA's cost_analysis of value and gradient says for one v5p chip, width 2048 and 4096, bfloat16."""
    environment = {"SKIP_MDS_QUERY": "1", "ACCELERATOR_TYPE": "v5p-2", "WORKER_HOSTNAMES": "localhost"}
    for name, value in environment.items():
        monkeypatch.setenv(f"TPU_{name}", value)
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chip = topologies.get_topology_desc("v5p:1x1x1", "tpu", chips_per_host_bounds=(1, 1, 1)).devices[0]
    here = jax.sharding.SingleDeviceSharding(chip)
    case = {"targets": ((tokens,), jnp.int32), "mask": ((tokens,), jnp.bool_)}
    for name, width in (("student", 2048), ("teacher", 4096)):
        case[f"{name}_hidden"] = ((tokens, width), jnp.bfloat16)
        case[f"{name}_head"] = ((width, vocabulary), jnp.bfloat16)
    shapes = {name: jax.ShapeDtypeStruct(*each, sharding=here) for name, each in case.items()}
    student = {name: shapes.pop(name) for name in ("student_hidden", "student_head")}

    def loss(student, rest):
        weights = {"target_kd": jnp.ones(tokens), "diversity_kd": jnp.ones(tokens)}
        return losses.linear_weighted_sum(**student, **rest, weights=weights, **options)[0]

    compiled = jax.jit(jax.value_and_grad(loss)).lower(student, shapes).compile()
    return compiled.cost_analysis()["bytes accessed"]


@pytest.fixture
def no_compilation_cache():
    """A program for a chip that is not here cannot be read back from the cache."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("no_compilation_cache")
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which jax[tpu] brings")
@pytest.mark.parametrize("keep_logits", [True, False])
def test_the_kernels_move_less_than_half_of_what_blocks_do(monkeypatch, keep_logits):
    """A loop's body is counted once whatever its turns: a single chunk, and of the blocks a single one, 62 times."""
    tokens, words = 2048, 2048
    measured = partial(bytes_accessed, monkeypatch, tokens=tokens)
    block = measured(vocabulary=words, block_words=words, chunk_tokens=tokens, keep_logits=keep_logits)
    assert measured(vocabulary=62 * words, implementation="pallas") < 0.5 * 62 * block
