"""What is kept of a token while blocks go by, whatever the blocks are."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.losses.rest import unseen

LOGITS = st.lists(st.sampled_from([-1e4, -50.0, 0.0, 3.0, 1e4]), min_size=6, max_size=6)


def rest_of(logits, targets, words):
    rest = unseen(targets)
    for first in range(0, 6, words):
        rest, _ = rest.updated(jnp.asarray(logits[:, first : first + words]), jnp.asarray(targets - first))
    return rest


@given(LOGITS, st.integers(0, 5))
def test_the_margin_does_not_depend_on_the_blocks(logits, target):
    logits, targets = np.array([logits], np.float32), np.array([target], np.int32)
    margins = [float(rest_of(logits, targets, words).margin()[0]) for words in (6, 3, 1)]
    others = np.float64(np.delete(logits[0], target))
    expected = np.float64(logits[0, target]) - others.max() - np.log(np.exp(others - others.max()).sum())
    np.testing.assert_allclose(margins, expected, rtol=1e-5, atol=1e-5)


@given(LOGITS, st.integers(-1, 5))
def test_the_whole_has_every_word_in_it(logits, target):
    logits, targets = np.array([logits], np.float32), np.array([target], np.int32)
    whole = rest_of(logits, targets, 3).whole()
    wide = np.float64(logits)
    expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    np.testing.assert_allclose(whole.log_probs(jnp.asarray(logits)), expected, rtol=1e-5, atol=1e-5)
