import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models.layer import DecoderLayer

X = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 32)), jnp.float32)
GATHERED = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 4, 8)), jnp.float32)


def make_layer(**changes) -> DecoderLayer:
    layer = DecoderLayer(dataclasses.replace(GROUPED, num_layers=1, **changes), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape[1:]), params))


# The literature's own formulas, f being attention or the MLP.
FORMULAS = {
    "pre": lambda x, f, norm, after: x + f(norm(x)),
    "post": lambda x, f, norm, after: norm(x + f(x)),
    "branch": lambda x, f, norm, after: x + norm(f(x)),
    "sandwich": lambda x, f, norm, after: x + after(f(norm(x))),
}


@pytest.mark.parametrize("placement", FORMULAS)
def test_norms_stand_where_the_placement_says(placement):
    layer = make_layer(norm_placement=placement)
    formula = FORMULAS[placement]
    attended = layer.attention.output(GATHERED)
    after = [getattr(layer, f"{name}_post_norm", None) for name in ("attention", "mlp")]
    x = formula(X, lambda _: attended, layer.attention_norm, after[0])
    expected = formula(x, layer.mlp, layer.mlp_norm, after[1])
    np.testing.assert_allclose(layer.finish(X, GATHERED), expected, rtol=1e-5, atol=1e-5)


def test_parallel_branches_read_the_same():
    layer = make_layer(parallel_residual=True)
    expected = X + layer.attention.output(GATHERED) + layer.mlp(layer.mlp_norm(X))
    np.testing.assert_allclose(layer.finish(X, GATHERED), expected, rtol=1e-5, atol=1e-5)
