import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.models.layers import GatedMLP, Linear, RMSNorm


def test_rms_norm_against_numpy():
    x = np.random.default_rng(0).normal(size=(2, 3, 8))
    norm = RMSNorm(8, eps=1e-3)
    norm.scale[...] = jnp.arange(8, dtype=jnp.float32)
    expected = np.arange(8) * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_squares_in_float32():
    x = jnp.full((1, 4096), 1e-3, jnp.bfloat16)
    np.testing.assert_allclose(RMSNorm(4096, eps=1e-12)(x).astype(jnp.float32), 1.0, rtol=1e-2)
    assert RMSNorm(4096, eps=1e-12)(x).dtype == jnp.bfloat16


@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (2, 3)), ((2, 3), (6,)), ((6,), (5,))])
def test_linear_against_numpy(inputs, outputs):
    x = np.random.default_rng(0).normal(size=(4, 7, *inputs)).astype(np.float32)
    linear = Linear(inputs, outputs, rngs=nnx.Rngs(0), stddev=1.0)
    expected = np.tensordot(x, np.asarray(linear.kernel[...]), axes=len(inputs))
    assert expected.shape == (4, 7, *outputs)
    np.testing.assert_allclose(linear(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_linear_gradients_against_numpy():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(4, 7, 2, 3)).astype(np.float32), rng.normal(size=(4, 7, 5)).astype(np.float32)
    graphdef, params = nnx.split(Linear((2, 3), (5,), rngs=nnx.Rngs(0), stddev=1.0))

    def value(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x) * weight)

    of_params, of_x = jax.grad(value, argnums=(0, 1))(params, jnp.asarray(x))
    kernel = np.asarray(params["kernel"][...])
    np.testing.assert_allclose(of_params["kernel"][...], np.einsum("btij,bto->ijo", x, weight), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, np.einsum("bto,ijo->btij", weight, kernel), rtol=1e-4, atol=1e-5)


def test_a_stack_has_a_leading_axis_and_the_spread_asked_for():
    linear = Linear((64,), (4, 16), rngs=nnx.Rngs(0), stddev=0.5, stack=(3,), param_dtype=jnp.bfloat16)
    assert linear.kernel.shape == (3, 64, 4, 16)
    assert linear.kernel.dtype == jnp.bfloat16
    assert float(jnp.std(linear.kernel[...].astype(jnp.float32))) == pytest.approx(0.5, rel=0.03)


def test_gated_mlp_against_numpy():
    mlp = GatedMLP(8, 12, activation="silu", rngs=nnx.Rngs(0), stddev=1.0, down_stddev=1.0)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    gate, up, down = (np.asarray(part.kernel[...], np.float64) for part in (mlp.gate, mlp.up, mlp.down))
    gated = x @ gate
    expected = (gated / (1 + np.exp(-gated)) * (x @ up)) @ down
    np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)
