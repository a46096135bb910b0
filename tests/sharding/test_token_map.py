import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax.sharding import TOKENS, VOCAB_AXIS, even_columns, make_mesh, map_tokens


def test_tokens_and_columns_lie_on_their_axes_and_gradients_are_summed():
    mesh = make_mesh(fsdp=2, sequence=2, tensor=2)
    hidden, head = jax.random.normal(jax.random.key(0), (2, 4, 3)), jax.random.normal(jax.random.key(1), (3, 5))

    def split(hidden, head):
        def own(hidden, head):
            assert hidden.shape == (1, 2, 3)
            assert head.shape == (3, 3)
            logits = hidden @ jax.lax.pcast(head, TOKENS, to="varying")
            sums = jax.lax.psum(jnp.sum(logits**2, axis=-1), VOCAB_AXIS)
            return jax.lax.psum(jnp.sum(sums), TOKENS), sums

        total, sums = map_tokens(own, mesh, tokens=hidden, heads=even_columns(head, 5, mesh))
        return total, sums

    def whole(hidden, head):
        sums = jnp.sum((hidden @ head) ** 2, axis=-1)
        return jnp.sum(sums), sums

    mine, plain = (jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(hidden, head) for f in (split, whole))
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_padded_columns_are_cut_before_others_are_added():
    head = jnp.arange(14.0).reshape(2, 7)
    columns = even_columns(head, 5, make_mesh(tensor=4))
    np.testing.assert_array_equal(columns, np.pad(head[:, :5], ((0, 0), (0, 3))))
