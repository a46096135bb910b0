import dataclasses

import numpy as np
from llama_oracle import GROUPED

from atkd_jax.models import LinearRopeScaling
from atkd_jax.models.layer_kinds import UNBOUNDED, LayerKind, layer_kinds


def test_layers_that_are_alike_share_their_kind():
    kinds = layer_kinds(GROUPED)
    assert kinds.shared() == LayerKind(0, None)
    assert kinds.frequencies.shape == (1, 4)
    windowed = layer_kinds(dataclasses.replace(GROUPED, window=7))
    assert windowed.shared() == LayerKind(0, 7)


def test_a_window_that_holds_nowhere_is_none():
    config = dataclasses.replace(GROUPED, window=7, windowed_layers=(False, False, False))
    assert layer_kinds(config).shared() == LayerKind(0, None)


def test_layers_that_differ_are_arrays():
    config = dataclasses.replace(
        GROUPED,
        window=7,
        windowed_layers=(True, False, False),
        rotary_layers=(True, True, False),
        local_rope_theta=100.0,
        rope_scaling=LinearRopeScaling(8.0),
    )
    kinds = layer_kinds(config)
    assert kinds.shared() is None
    np.testing.assert_array_equal(kinds.stacked().window, [7, UNBOUNDED, UNBOUNDED])
    exponents = np.arange(0, 8, 2) / 8
    expected = [100.0**-exponents, 10_000.0**-exponents / 8, np.zeros(4)]
    np.testing.assert_allclose(kinds.frequencies[kinds.stacked().rotation], expected, rtol=1e-6)


def test_a_model_with_learned_positions_turns_nothing():
    kinds = layer_kinds(dataclasses.replace(GROUPED, positions="learned"))
    assert kinds.frequencies is None
    assert kinds.shared() == LayerKind(0, None)
