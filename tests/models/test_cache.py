import jax
import jax.numpy as jnp
from llama_oracle import GROUPED

from atkd_jax.models import KVCache


def test_an_empty_cache_has_a_slot_for_every_token_and_nothing_in_it():
    cache = KVCache.empty(GROUPED, 2, 10, jnp.bfloat16)
    assert len(jax.tree.leaves(cache.key)) == len(jax.tree.leaves(cache.value))
    size = sum(leaf.size for leaf in jax.tree.leaves((cache.key, cache.value)))
    assert size == 2 * GROUPED.num_layers * 2 * 10 * GROUPED.num_kv_heads * GROUPED.head_dim
    assert {leaf.dtype for leaf in jax.tree.leaves((cache.key, cache.value))} == {jnp.dtype(jnp.bfloat16)}
    assert cache.segment_ids.shape == (2, 10)
    assert not cache.segment_ids.any()
    assert int(cache.length) == 0
