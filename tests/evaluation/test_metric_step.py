import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.evaluation.metric_step import make_metric_step
from atkd_jax.models import Decoder, DecoderConfig

VOCAB = 101
SHAPE = (4, 32)


def parts():
    config = DecoderConfig(
        vocab_size=VOCAB, width=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_width=8
    )
    return nnx.split(Decoder(config, rngs=nnx.Rngs(0)))


def batch():
    ones = jnp.ones(SHAPE, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(SHAPE[1], dtype=jnp.int32), SHAPE)
    mask = positions % 3 == 1
    return {"tokens": ones, "positions": positions, "segment_ids": ones, "loss_mask": mask}


def sizes(jaxpr):
    """The sizes of all arrays that a program makes, those within its loops among them."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from sizes(value.jaxpr)


def test_logits_exist_for_one_chunk_at_a_time():
    graphdef, params = parts()
    step = make_metric_step(graphdef, [graphdef], vocab_size=VOCAB, chunk_tokens=16)
    largest = max(sizes(jax.make_jaxpr(step)(params, [params], batch()).jaxpr))
    assert 16 * VOCAB <= largest < np.prod(SHAPE) * VOCAB / 2


def test_it_gives_a_number_per_counted_token_and_zeros_beyond():
    graphdef, params = parts()
    step = make_metric_step(graphdef, [], vocab_size=VOCAB, chunk_tokens=10)
    (metrics,), counted = jax.jit(step)(params, [], batch())
    assert counted == batch()["loss_mask"].sum()
    assert (metrics.cross_entropy[:counted] > 0).all()
    assert (metrics.cross_entropy[counted:] == 0).all()
    assert metrics.cross_entropy.dtype == jnp.float32


def test_it_counts_in_a_batch_without_any_counted_token():
    graphdef, params = parts()
    step = make_metric_step(graphdef, [], vocab_size=VOCAB, chunk_tokens=10)
    (metrics,), counted = jax.jit(step)(params, [], batch() | {"loss_mask": jnp.zeros(SHAPE, bool)})
    assert counted == 0
    assert not metrics.cross_entropy.any()
