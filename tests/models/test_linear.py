import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.models.linear import Linear


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


def test_a_bias_is_added_in_the_shape_of_the_result():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    linear = Linear((6,), (2, 3), rngs=nnx.Rngs(0), stddev=1.0, bias=True)
    without = linear(jnp.asarray(x))
    linear.bias[...] = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(linear(jnp.asarray(x)) - without, np.tile(np.arange(6.0).reshape(2, 3), (4, 1, 1)))
    assert not hasattr(Linear((6,), (2,), rngs=nnx.Rngs(0), stddev=1.0), "bias")
