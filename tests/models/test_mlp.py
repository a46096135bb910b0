import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from llama_oracle import GROUPED
from transformers.activations import ACT2FN

from atkd_jax.models.mlp import ACTIVATIONS, MLP

X = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)


def test_a_gated_mlp_against_numpy():
    mlp = MLP(GROUPED, rngs=nnx.Rngs(0), stddev=1.0, down_stddev=1.0)
    gate, up, down = (np.asarray(part.kernel[...], np.float64) for part in (mlp.gate, mlp.up, mlp.down))
    gated = X @ gate
    expected = (gated / (1 + np.exp(-gated)) * (X @ up)) @ down
    np.testing.assert_allclose(mlp(jnp.asarray(X)), expected, rtol=1e-3, atol=1e-2)


def test_an_mlp_without_a_gate_against_numpy():
    config = dataclasses.replace(GROUPED, gated_mlp=False, mlp_bias=True, activation="relu")
    mlp = MLP(config, rngs=nnx.Rngs(0), stddev=1.0, down_stddev=1.0)
    mlp.up.bias[...] = jnp.linspace(-1, 1, 48)
    mlp.down.bias[...] = jnp.linspace(2, 3, 32)
    up, down = (np.asarray(part.kernel[...], np.float64) for part in (mlp.up, mlp.down))
    expected = np.maximum(X @ up + np.linspace(-1, 1, 48), 0) @ down + np.linspace(2, 3, 32)
    np.testing.assert_allclose(mlp(jnp.asarray(X)), expected, rtol=1e-3, atol=1e-2)
    assert not hasattr(mlp, "gate")


@pytest.mark.parametrize(
    ("name", "theirs"), [("silu", "silu"), ("relu", "relu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh")]
)
def test_activations_are_those_of_transformers(name, theirs):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), ACT2FN[theirs](torch.tensor(x)), rtol=1e-5, atol=1e-6)
