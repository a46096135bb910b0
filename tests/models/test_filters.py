"""The oracle is each filter's own norm, taken one by one in NumPy from what a filter is in a decoder."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models import Decoder, filter_axes, filter_normalized_direction
from atkd_jax.models.logical_axes import parameter_path

CONFIG = dataclasses.replace(
    GROUPED, norm="layer", positions="learned", qkv_bias=True, num_experts=3, experts_per_token=2
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = nnx.state(nnx.eval_shape(lambda: Decoder(CONFIG, rngs=nnx.Rngs(0))))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


draw = jax.jit(filter_normalized_direction)


@pytest.fixture(scope="module")
def direction(params):
    return draw(params, jax.random.key(0))


def named(tree):
    return {
        parameter_path(path): np.asarray(leaf, np.float64) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def filters(path, array):
    """The filters of a parameter, one after the other, each flat; none of a norm or a bias."""
    if path.endswith((".scale", ".bias")):
        return
    if path in ("embedding", "position_embedding"):
        yield from array  # A word's row.
        return
    stacks = 2 if ".experts." in path else 0 if path in ("head", "project_in.kernel", "project_out.kernel") else 1
    inputs = 2 if path == "layers.attention.output.kernel" else 1
    for place in np.ndindex(array.shape[:stacks]):
        matrix = array[place].reshape(np.prod(array.shape[stacks : stacks + inputs]), -1)
        yield from matrix.T  # What one output reads.


def test_every_filter_has_the_norm_of_the_weights_own(params, direction):
    weights, moved = named(params), named(direction)
    counted = 0
    for path, array in weights.items():
        pairs = list(zip(filters(path, array), filters(path, moved[path]), strict=True))
        counted += len(pairs)
        for own, way in pairs:
            assert np.linalg.norm(way) == pytest.approx(np.linalg.norm(own), rel=1e-5), path
        if not pairs:
            assert not moved[path].any(), path
    assert counted > 500


def test_a_key_gives_its_direction_again_and_another_one_another(params, direction):
    again, other = (draw(params, jax.random.key(seed)) for seed in (0, 1))
    for one, same in zip(*map(jax.tree.leaves, (direction, again)), strict=True):
        np.testing.assert_array_equal(one, same)
    (first, second) = (np.concatenate([array.ravel() for array in named(each).values()]) for each in (direction, other))
    # Two random directions among so many parameters are nearly orthogonal.
    assert abs(first @ second) < 0.1 * np.linalg.norm(first) * np.linalg.norm(second)


def test_larger_weights_move_as_much_further(params, direction):
    larger = draw(jax.tree.map(lambda leaf: 3 * leaf, params), jax.random.key(0))
    for own, tripled in zip(*map(jax.tree.leaves, (direction, larger)), strict=True):
        np.testing.assert_allclose(3 * own, tripled, rtol=1e-5, atol=1e-6)


def test_a_parameter_of_no_decoder_is_refused():
    with pytest.raises(ValueError, match=r"must be a parameter of a Decoder, got 'layers\.mlp\.middle'"):
        filter_axes("layers.mlp.middle")
