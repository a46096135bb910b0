"""Arguments of the linear sparse losses once they are flat."""

import numpy as np
from sparse_cases import random_case, top_k_signal

from atkd_jax.losses.linear_inputs import Cut
from atkd_jax.losses.sparse_inputs import prepare_sparse
from atkd_jax.losses.token_terms import Question
from atkd_jax.losses.vocabulary_blocks import Model


def test_what_does_not_count_is_empty_and_shapes_come_back():
    _, teacher, targets = random_case()
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    signal = top_k_signal(teacher, targets, k=3)
    model = Model(np.ones((3, 4, 2), np.float32), np.ones((2, 9), np.float32), None)
    cut = Cut(None, 4, None, None, None, ())
    ready = prepare_sparse("f", Question("forward_kl"), model, None, signal, targets, mask, cut)
    assert ready.signal.ids.shape == (12, 3)
    assert (np.asarray(ready.ids())[~mask.reshape(-1)] == -1).all()
    shaped = ready.shaped_signal()
    assert shaped.ids.shape == (3, 4, 3)
    np.testing.assert_array_equal(np.asarray(shaped.ids)[mask], np.asarray(signal.ids)[mask])
    np.testing.assert_allclose(np.exp(np.asarray(shaped.target_log_prob)[~mask]), 0.5, rtol=1e-6)
