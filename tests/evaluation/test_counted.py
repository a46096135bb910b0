import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.evaluation.counted import counted_chunks


@given(mask=st.lists(st.booleans(), min_size=1, max_size=17), chunk_tokens=st.sampled_from([1, 3, 5, 40]))
def test_every_counted_token_has_one_turn_and_no_other_has_any(mask, chunk_tokens):
    mask = np.array(mask)
    chunks = counted_chunks(jnp.asarray(mask), chunk_tokens)
    seen = []
    for turn in range(int(chunks.turns)):
        numbers, valid = chunks.chunk(jnp.int32(turn))
        assert valid.any()
        seen += np.asarray(numbers)[np.asarray(valid)].tolist()
    assert seen == np.flatnonzero(mask).tolist()
