import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from atkd_jax.models.norms import LayerNorm, RMSNorm, make_norm


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


def test_a_centred_scale_is_that_of_gemma():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    theirs, ours = Gemma2RMSNorm(8, eps=1e-3), RMSNorm(8, eps=1e-3, centred=True)
    np.testing.assert_array_equal(ours.scale[...], 0)
    scale = np.linspace(-1, 1, 8, dtype=np.float32)
    theirs.weight.data.copy_(torch.tensor(scale))
    ours.scale[...] = jnp.asarray(scale)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_layer_norm_is_that_of_torch(mean):
    x = np.random.default_rng(0).normal(loc=mean, size=(2, 3, 8)).astype(np.float32)
    theirs, ours = torch.nn.LayerNorm(8, eps=1e-3), LayerNorm(8, eps=1e-3)
    for own, parameter in ((ours.scale, theirs.weight), (ours.bias, theirs.bias)):
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
        own[...] = jnp.asarray(parameter.detach().numpy())
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), rtol=1e-3, atol=1e-4)
    assert ours(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("kind", "made", "names"),
    [("rms", RMSNorm, {"scale"}), ("rms_centred", RMSNorm, {"scale"}), ("layer", LayerNorm, {"scale", "bias"})],
)
def test_each_kind_has_its_parameters_stacked(kind, made, names):
    norm = make_norm(kind, 8, eps=1e-5, stack=(3,), param_dtype=jnp.bfloat16)
    assert isinstance(norm, made)
    for name in names:
        assert (getattr(norm, name).shape, getattr(norm, name).dtype) == ((3, 8), jnp.bfloat16)
