import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.errors import InputError
from atkd_jax.models import TARGETS, Decoder, add_adapters, logical_axes, merge_adapters, split_trained

TOKENS = jnp.arange(10)[None]


def adapted(targets=tuple(TARGETS), **changes):
    """A model whose adapters say something."""
    model = Decoder(dataclasses.replace(GROUPED, **changes), rngs=nnx.Rngs(0))
    add_adapters(model, rank=3, alpha=6.0, targets=targets, rngs=nnx.Rngs(1))
    adapters = nnx.state(model, nnx.LoRAParam)
    keys = iter(jax.random.split(jax.random.key(2), 20))
    nnx.update(model, jax.tree.map(lambda leaf: 0.2 * jax.random.normal(next(keys), leaf.shape), adapters))
    return model


@pytest.mark.parametrize("name", TARGETS)
def test_a_product_is_its_kernels_and_its_adapters(name):
    graphdef, stacked = nnx.split(adapted([name]).layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[1], stacked))
    linear = getattr(layer.attention if name in ("query", "key", "value", "output") else layer.mlp, name)
    kernel, low_rank, outputs = (
        np.asarray(each[...], np.float64) for each in (linear.kernel, linear.adapter_in, linear.adapter_out)
    )
    inputs = kernel.shape[: linear.num_inputs]
    x = np.random.default_rng(0).normal(size=(2, 5, *inputs))
    flat = x.reshape(10, -1)
    product = flat @ kernel.reshape(flat.shape[1], -1)
    product += 2.0 * flat @ low_rank.reshape(-1, 3) @ outputs.reshape(3, -1)
    expected = product.reshape(2, 5, *kernel.shape[linear.num_inputs :])
    np.testing.assert_allclose(linear(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


def test_merged_weights_compute_what_weights_and_adapters_do():
    model = adapted(qkv_bias=True)
    plain = Decoder(dataclasses.replace(GROUPED, qkv_bias=True), rngs=nnx.Rngs(0))
    expected = model(TOKENS)
    merge_adapters(model)
    np.testing.assert_allclose(model(TOKENS), expected, atol=1e-5)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(nnx.state(plain))
    assert float(jnp.abs(expected - plain(TOKENS)).max()) > 1e-2


def test_what_is_trained_is_told_from_what_stays():
    model = adapted(["query", "down"])
    graphdef, trained, frozen = split_trained(model)
    assert {leaf.shape for leaf in jax.tree.leaves(trained)} >= {(GROUPED.num_layers, GROUPED.width, 3)}
    assert len(jax.tree.leaves(trained)) == 4
    np.testing.assert_array_equal(nnx.merge(graphdef, trained, *frozen)(TOKENS), model(TOKENS))
    for names in jax.tree.leaves(logical_axes(trained), is_leaf=lambda node: isinstance(node, tuple)):
        assert names[0] == "layers"
    merge_adapters(model)
    assert split_trained(model)[2] == ()


def test_the_gradient_of_an_adapter_is_that_of_its_product():
    model = adapted(["gate"])
    graphdef, trained, frozen = split_trained(model)

    def loss(adapters):
        return jnp.mean(nnx.merge(graphdef, adapters, *frozen)(TOKENS) ** 2)

    def loss_of_merged(adapters):
        merged = nnx.merge(graphdef, adapters, *frozen)
        merge_adapters(merged)
        return jnp.mean(merged(TOKENS) ** 2)

    for ours, other in zip(*(jax.tree.leaves(jax.grad(f)(trained)) for f in (loss, loss_of_merged)), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-6)


def test_a_product_that_the_family_lacks_is_named():
    model = Decoder(dataclasses.replace(GROUPED, gated_mlp=False), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"of the family llama, which are query, .*up, down, but has gate; leave it"):
        add_adapters(model, rank=2, alpha=4.0, targets=["gate"], rngs=nnx.Rngs(0))
