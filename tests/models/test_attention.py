import dataclasses
import math
import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr
from llama_oracle import GROUPED

from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, attention
from atkd_jax.models import splash_attention as splash_module
from atkd_jax.models.attention import Scores, attention_mask, causal_attention, grouped_query_attention
from atkd_jax.models.splash_attention import splash_attention
from atkd_jax.sharding import make_mesh


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_that_of_torch(kv_heads):
    query, key, value = drawn(2, 5, 4, 8), drawn(2, kv_heads, 7, 8, seed=1), drawn(2, kv_heads, 7, 8, seed=2)
    mask = np.random.default_rng(3).random((2, 5, 7)) < 0.6
    mask[:, :, 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(query).transpose(1, 2),
        torch.tensor(key),
        torch.tensor(value),
        attn_mask=torch.tensor(mask)[:, None],
        enable_gqa=True,
    ).transpose(1, 2)
    np.testing.assert_allclose(grouped_query_attention(query, key, value, mask), expected, atol=1e-5, rtol=1e-5)


def test_a_query_that_may_look_at_nothing_stays_finite_with_its_gradient():
    query = jnp.asarray(drawn(1, 3, 2, 4))
    key, value = (jnp.asarray(drawn(1, 2, 3, 4, seed=seed)) for seed in (1, 2))
    mask = jnp.asarray([[[True, False, False], [False, False, False], [True, True, True]]])
    out, gradient = jax.value_and_grad(lambda q: jnp.sum(grouped_query_attention(q, key, value, mask)))(query)
    assert np.isfinite(out)
    assert np.isfinite(gradient).all()


def test_scores_of_narrow_heads_are_float32():
    # The second key's score differs by less than bfloat16 can tell at this size.
    query = jnp.full((1, 1, 1, 64), 4.0, jnp.bfloat16)
    key = jnp.full((1, 1, 2, 64), 4.0, jnp.bfloat16).at[0, 0, 1, :8].set(4.0625)
    value = jnp.broadcast_to(jnp.asarray([0.0, 1.0], jnp.bfloat16)[None, None, :, None], (1, 1, 2, 64))
    mixed = grouped_query_attention(query, key, value, jnp.ones((1, 1, 2), bool))
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(mixed.astype(jnp.float32), 1 / (1 + np.exp(-0.25)), rtol=1e-2)


def test_mask_is_causal_within_segments():
    segments = jnp.asarray([[1, 1, 2, 2, 0]])
    slots = jnp.arange(5)
    mask = attention_mask(query_segments=segments, key_segments=segments, query_slots=slots, key_slots=slots)
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(mask[0], np.asarray(expected, bool))


def test_a_window_ends_the_look_back():
    slots, segments = jnp.arange(5), jnp.ones((1, 5), jnp.int32)
    mask = attention_mask(query_segments=segments, key_segments=segments, query_slots=slots, key_slots=slots, window=2)
    np.testing.assert_array_equal(mask[0], np.eye(5, dtype=bool) | np.eye(5, k=-1, dtype=bool))


def test_scale_and_soft_cap_against_numpy():
    query, key, value = drawn(1, 3, 2, 4), drawn(1, 1, 3, 4, seed=1), drawn(1, 1, 3, 4, seed=2)
    products = np.einsum("tnd,sd->nts", query[0].astype(np.float64), key[0, 0]) * 0.7
    scores = np.exp(1.5 * np.tanh(products / 1.5))
    expected = np.einsum("nts,sd->tnd", scores / scores.sum(axis=-1, keepdims=True), value[0, 0])
    got = grouped_query_attention(query, key, value, jnp.ones((1, 3, 3), bool), scores=Scores(0.7, 1.5))
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 127, 128, 300, 1100])
def test_causal_attention_is_that_of_torch_however_many_parts_it_goes_in(length):
    query, key, value = drawn(1, length, 2, 4), drawn(1, 1, length, 4, seed=1), drawn(1, 1, length, 4, seed=2)
    segments = np.sort(np.random.default_rng(0).integers(1, 4, (1, length)))
    mask = np.tril(segments[:, :, None] == segments[:, None, :])
    as_torch = [torch.tensor(array, requires_grad=True) for array in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        as_torch[0].transpose(1, 2), *as_torch[1:], attn_mask=torch.tensor(mask)[:, None], enable_gqa=True
    ).transpose(1, 2)
    expected.sin().sum().backward()

    def value_of(query, key, value):
        out = causal_attention(query, key, value, jnp.asarray(segments))
        return jnp.sum(jnp.sin(out)), out

    (_, out), gradients = jax.jit(jax.value_and_grad(value_of, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    np.testing.assert_allclose(out, expected.detach(), atol=1e-5, rtol=1e-5)
    for of_jax, of_torch in zip(gradients, as_torch, strict=True):
        np.testing.assert_allclose(of_jax, of_torch.grad, atol=1e-4, rtol=1e-4)


def test_no_array_of_length_by_length_is_kept_for_the_backward_pass():
    query, heads = jnp.ones((1, 1024, 2, 8)), jnp.ones((1, 2, 1024, 8))
    segments = jnp.ones((1, 1024), jnp.int32)
    _, kept = jax.eval_shape(
        lambda q, k, v: jax.vjp(lambda *a: causal_attention(*a, segments), q, k, v), query, heads, heads
    )
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= heads.size


@pytest.fixture
def tpus(monkeypatch):
    """Has models take this machine for TPUs, and works their kernels out without one, in blocks of a short row."""
    monkeypatch.setattr(attention, "splash_attention", partial(splash_attention, interpret=True))
    monkeypatch.setattr(attention, "_platform", lambda mesh: "tpu")
    monkeypatch.setattr(splash_module, "_BLOCKS", (128,))


WINDOWED = dataclasses.replace(GROUPED, window=100, windowed_layers=(True, False, True), attention_softcap=2.0)
ROWS = np.random.default_rng(0).integers(0, GROUPED.vocab_size, (2, 256)).astype(np.int32)


def loss_of(decoder, mesh):
    segments = jnp.asarray(np.arange(256) // 150 + np.zeros((2, 1)), jnp.int32)
    states = decoder.hidden_states(ROWS, segment_ids=segments, mesh=mesh)
    return jnp.mean(jnp.sin(states)), states


def calls_of_kernels(decoder, mesh):
    """The kernels that value and gradient call, by their names."""
    graphdef, params = nnx.split(decoder)
    traced = jax.make_jaxpr(jax.grad(lambda params: loss_of(nnx.merge(graphdef, params), mesh)[0]))(params)
    needed, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return Counter(re.findall(r"name=splash_mqa_(fwd|dq|dkv)", str(needed)))


@pytest.mark.parametrize("mesh", [{"fsdp": 1}, {"sequence": 2, "tensor": 2}])
def test_a_model_attends_alike_by_kernels(tpus, mesh):
    """Layers with a window and without one, whose number alone tells the program of a scan which they are."""
    decoder = Decoder(WINDOWED, rngs=nnx.Rngs(0))
    mesh = make_mesh(**mesh, devices=jax.devices()[: math.prod(mesh.values())])

    def states_and_gradient(kernel):
        decoder.attend_by(kernel)
        (_, states), gradient = nnx.jit(nnx.value_and_grad(partial(loss_of, mesh=mesh), has_aux=True))(decoder)
        return states, jax.tree.leaves(gradient)

    (states, gradient), (expected, of_expected) = map(states_and_gradient, ("auto", "xla"))
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradient, of_expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mesh", [{"fsdp": 1}, {"sequence": 2, "tensor": 2}])
def test_a_kernel_runs_again_only_where_its_result_is_not_kept(tpus, mesh):
    mesh = make_mesh(**mesh, devices=jax.devices()[: math.prod(mesh.values())])
    none, full = (calls_of_kernels(Decoder(GROUPED, rngs=nnx.Rngs(0), remat=remat), mesh) for remat in ("none", "full"))
    assert none == {"fwd": 1, "dq": 1, "dkv": 1}
    assert full == {"fwd": 2, "dq": 1, "dkv": 1}


def test_kernels_are_not_for_arrays_that_the_compiler_spreads_by_itself(tpus):
    decoder = Decoder(GROUPED, rngs=nnx.Rngs(0))
    decoder.attend_by("splash")
    assert jax.device_count() > 1
    assert not calls_of_kernels(decoder, None)
    decoder.attend_by("xla")
    assert not calls_of_kernels(decoder, make_mesh())


def test_kernels_without_a_tpu_are_refused():
    decoder = Decoder(GROUPED, rngs=nnx.Rngs(0))
    decoder.attend_by("splash")
    with pytest.raises(InputError, match=r"training.attention=splash needs TPUs.*got 256 tokens, .* platform 'cpu'"):
        loss_of(decoder, make_mesh())
