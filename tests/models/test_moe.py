import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models.moe import ExpertMLP

CONFIG = dataclasses.replace(GROUPED, num_experts=5, experts_per_token=2)
X = np.random.default_rng(0).normal(size=(2, 7, 32)).astype(np.float32)


def by_loops(mlp: ExpertMLP, normalize: bool) -> np.ndarray:
    router, gate, up, down = (
        np.asarray(part.kernel[...], np.float64)
        for part in (mlp.router, mlp.experts.gate, mlp.experts.up, mlp.experts.down)
    )
    result = np.zeros_like(X, np.float64)
    for place in np.ndindex(*X.shape[:-1]):
        x = X[place].astype(np.float64)
        probs = np.exp(x @ router) / np.sum(np.exp(x @ router))
        chosen = np.argsort(-probs)[:2]
        total = np.sum(probs[chosen]) if normalize else 1.0
        for number in chosen:
            gated = x @ gate[number]
            hidden = gated / (1 + np.exp(-gated)) * (x @ up[number])
            result[place] += probs[number] / total * (hidden @ down[number])
    return result


@pytest.mark.parametrize("normalize", [True, False])
def test_each_token_goes_through_its_likeliest_experts(normalize):
    config = dataclasses.replace(CONFIG, normalize_expert_weights=normalize)
    mlp = ExpertMLP(config, rngs=nnx.Rngs(0), stddev=0.5, down_stddev=0.5, stack=(), param_dtype=jnp.float32)
    np.testing.assert_allclose(mlp(jnp.asarray(X)), by_loops(mlp, normalize), rtol=1e-4, atol=1e-4)


def test_rows_on_several_devices_give_the_same():
    mlp = ExpertMLP(CONFIG, rngs=nnx.Rngs(0), stddev=0.5, down_stddev=0.5, stack=(), param_dtype=jnp.float32)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.P("rows")))
    graphdef, params = nnx.split(mlp)
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P()))
    got = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))(params, spread)
    np.testing.assert_allclose(got, mlp(jnp.asarray(X)), rtol=1e-5, atol=1e-5)
