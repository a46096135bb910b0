import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.models import splash_attention as module
from atkd_jax.models.attention import Scores, causal_attention
from atkd_jax.models.sequence_attention import Stripe
from atkd_jax.models.splash_attention import fits_blocks, splash_attention

LENGTH, HEADS, KV_HEADS, HEAD_DIM = 512, 4, 2, 64


def drawn(dtype=np.float32):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, LENGTH, HEADS, HEAD_DIM))
    key, value = rng.normal(size=(2, 2, KV_HEADS, LENGTH, HEAD_DIM))
    segments = np.sort(rng.integers(0, 4, (2, LENGTH)), axis=1)[:, ::-1]  # padding is 0, at the end
    return tuple(jnp.asarray(each, dtype) for each in (query, key, value)), jnp.asarray(segments.copy(), jnp.int32)


def value_and_gradients(attend, *arrays):
    def scalar(*arrays):
        out = attend(*arrays).astype(jnp.float32)
        return jnp.sum(jnp.sin(out)), out

    (_, out), gradients = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return out, *gradients


@pytest.mark.parametrize(
    ("window", "scores", "stripe"),
    [
        (None, Scores(), None),
        (100, Scores(0.3, 5.0), None),
        (None, Scores(), Stripe(2, 1)),
        (150, Scores(), Stripe(2, 0)),
    ],
)
def test_it_is_the_attention_without_kernels(monkeypatch, window, scores, stripe):
    monkeypatch.setattr(module, "_BLOCKS", (128,))  # several of queries and of keys
    (query, key, value), segments = drawn()
    stripe = stripe or Stripe(1, 0)
    query = query[:, stripe.first :: stripe.count]

    def plain(*arrays):
        return causal_attention(*arrays, segments, window=window, scores=scores, stripe=stripe)

    def by_kernel(*arrays):
        how = {"scale": scores.scale, "softcap": scores.softcap, "interpret": True}
        return splash_attention(*arrays, segments, window=window, stripe=stripe, **how)

    expected = value_and_gradients(plain, query, key, value)
    for ours, theirs in zip(value_and_gradients(by_kernel, query, key, value), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_in_bfloat16_it_rounds_as_much_as_without_kernels():
    arrays, segments = drawn()
    exact = np.asarray(causal_attention(*arrays, segments), np.float32)
    rounded = [each.astype(jnp.bfloat16) for each in arrays]
    by_kernel = splash_attention(*rounded, segments, interpret=True)
    assert by_kernel.dtype == jnp.bfloat16
    errors = [
        np.abs(np.asarray(out, np.float32) - exact).mean() for out in (by_kernel, causal_attention(*rounded, segments))
    ]
    assert errors[0] < 1.5 * errors[1]


def test_rows_are_cut_into_blocks_where_they_can_be():
    assert fits_blocks(4096)
    assert fits_blocks(384, parts=3)
    assert not fits_blocks(192)  # no multiple of 128
    assert not fits_blocks(256, parts=4)  # 64 queries each
