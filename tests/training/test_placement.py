import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.config import OptimizerConfig
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.sharding import make_mesh
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state, placing_on
from atkd_jax.training.state import initial_state


def test_moments_lie_where_their_parameters_lie_and_start_as_they_would_on_one_device():
    config = DecoderConfig(vocab_size=32, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_width=32)
    params = nnx.state(Decoder(config, rngs=nnx.Rngs(params=0)))
    optimizer = make_optimizer(OptimizerConfig(), steps=5)
    state = place_state(params, mesh=make_mesh(fsdp=2, tensor=2), optimizer=optimizer, seed=3)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(state.params)]
    assert any(not sharding.is_fully_replicated for sharding in shardings)
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim > 0]
    assert [leaf.sharding for leaf in moments] == shardings * 2
    plain = initial_state(params, optimizer=optimizer, seed=3)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert state.step == jnp.zeros((), jnp.int32)


def test_a_weight_is_placed_by_its_path():
    sharding = placing_on(make_mesh(fsdp=2, tensor=4))("layers.mlp.up.kernel", (2, 16, 32))
    assert sharding.shard_shape((2, 16, 32)) == (2, 8, 8)
