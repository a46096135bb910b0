import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from llama_oracle import GROUPED

from atkd_jax.models import KVCache


def test_an_empty_cache_has_a_slot_for_every_token_and_nothing_in_it():
    cache = KVCache.empty(GROUPED, 2, 10, jnp.bfloat16)
    assert cache.key.shape == cache.value.shape == (3, 2, 2, 10, 8)
    assert cache.key.dtype == cache.value.dtype == jnp.bfloat16
    assert cache.segment_ids.shape == (2, 10)
    assert not cache.segment_ids.any()
    assert int(cache.length) == 0


def test_an_unstacked_cache_holds_the_same():
    cache = KVCache.empty(GROUPED, 2, 10, jnp.float32)
    cache = dataclasses.replace(cache, key=jnp.arange(cache.key.size, dtype=jnp.float32).reshape(cache.key.shape))
    apart = cache.unstacked()
    np.testing.assert_array_equal(jnp.stack(apart.key), cache.key)
    assert len(jax.tree.leaves(apart)) == 2 * 3 + 2
