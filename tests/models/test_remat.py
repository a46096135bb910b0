import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models import Decoder
from atkd_jax.models.remat import rematerialised

TOKENS = np.random.default_rng(0).integers(0, GROUPED.vocab_size, (2, 40)).astype(np.int32)


def loss_of(remat):
    decoder = Decoder(GROUPED, rngs=nnx.Rngs(0), remat=remat)
    graphdef, params = nnx.split(decoder)

    def loss(params):
        log_probs = jax.nn.log_softmax(nnx.merge(graphdef, params)(TOKENS)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_probs, TOKENS[:, 1:, None], axis=-1))

    return loss, params


@pytest.fixture(scope="module")
def without(request):
    """Value and gradient with nothing wrapped around the layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atkd_jax.models.decoder.rematerialised", lambda layer, remat: layer)
        loss, params = loss_of("none")
        return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_neither_value_nor_gradient_changes(without, remat):
    loss, params = loss_of(remat)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        jax.jit(jax.value_and_grad(loss))(params),
        without,
    )


def test_each_keeps_less_than_the_one_before():
    def kept_bytes(remat):
        loss, params = loss_of(remat)
        kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    none, dots, full = (kept_bytes(remat) for remat in ("none", "dots", "full"))
    gathered = TOKENS.size * GROUPED.num_layers * GROUPED.num_heads * GROUPED.head_dim * 4
    assert none - dots == gathered
    assert full < dots - gathered


def test_full_keeps_the_residual_stream_alone():
    def layer(x, weight):
        return jnp.sin(x @ weight), None

    def loss(x, weights):
        return jax.lax.scan(rematerialised(layer, "full"), x, weights)[0].sum()

    kept = jax.eval_shape(lambda x, w: jax.vjp(loss, x, w)[1], jnp.ones((5, 4)), jnp.ones((3, 4, 4)))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(kept) if leaf.ndim > 1) == [(3, 4, 4), (3, 5, 4)]


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="Decoder: remat must be one of none, full, dots, got 'some'; choose one"):
        Decoder(GROUPED, rngs=nnx.Rngs(0), remat="some")
