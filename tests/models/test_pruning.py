import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from llama_oracle import GROUPED

from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, Pruning, evenly_spaced_layers, prune_model
from atkd_jax.models.layer_kinds import layer_kinds
from atkd_jax.models.rotary import rotary_angles


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
def test_kept_layers_are_ascending_even_and_reach_from_end_to_end(numbers):
    num_layers, keep = numbers
    kept = evenly_spaced_layers(num_layers, keep)
    gaps = np.diff(kept)
    assert (len(kept), kept[0], kept[-1]) == (keep, 0, num_layers - 1)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_all_layers_or_one():
    assert evenly_spaced_layers(5, 5) == (0, 1, 2, 3, 4)
    assert evenly_spaced_layers(5, 1) == (0,)


@pytest.mark.parametrize("keep", [0, 6, -1])
def test_more_layers_than_there_are_or_none_are_refused(keep):
    with pytest.raises(InputError, match=rf"must be between 1 and the model's 5, got {keep}; choose"):
        evenly_spaced_layers(5, keep)


@pytest.fixture(scope="module")
def model():
    return Decoder(GROUPED, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16, remat="full")


def test_a_pruned_model_has_the_kept_layers_and_all_that_surrounds_them(model):
    pruned = prune_model(model, Pruning((0, 2)))
    assert pruned.config.num_layers == 2
    assert (pruned.dtype, pruned.remat) == (model.dtype, "full")
    for (path, new), (_, old) in zip(
        nnx.to_flat_state(nnx.state(pruned)), nnx.to_flat_state(nnx.state(model)), strict=True
    ):
        expected = old[...][np.array([0, 2])] if path[0] == "layers" else old[...]
        assert new.dtype == jnp.float32
        np.testing.assert_array_equal(new[...], expected.astype(jnp.float32))


def test_pruning_is_leaving_layers_out(model):
    layers, positions = model.layers, jnp.arange(4)[None]
    pruned = prune_model(model, Pruning((1,)), dtype=jnp.float32, remat="none")
    graphdef, stacked = nnx.split(layers)
    one = nnx.merge(graphdef, jax.tree.map(lambda array: array[1], stacked))
    x = model.embedding[...][jnp.arange(4)[None]].astype(jnp.float32)
    kinds = layer_kinds(GROUPED)
    x, _ = one(x, jnp.ones((1, 4), jnp.int32), rotary_angles(kinds.frequencies, positions), kinds.each[1])
    np.testing.assert_allclose(pruned.hidden_states(jnp.arange(4)[None]), model.final_norm(x), atol=1e-5, rtol=0)


def test_what_is_said_layer_by_layer_is_pruned_with_the_layers():
    config = dataclasses.replace(
        GROUPED, window=5, windowed_layers=(True, False, True), rotary_layers=(True, True, False)
    )
    pruned = prune_model(Decoder(config, rngs=nnx.Rngs(0)), Pruning((1, 2))).config
    assert (pruned.windowed_layers, pruned.rotary_layers) == ((False, True), (True, False))


def test_attention_stays_as_it_is_computed(model):
    model.attend_by("xla")
    try:
        assert prune_model(model, Pruning((0, 2))).layers.attention.kernel == "xla"
    finally:
        model.attend_by("auto")


def test_the_copy_shares_no_array_with_the_model():
    model = Decoder(GROUPED, rngs=nnx.Rngs(0))
    pruned = prune_model(model, Pruning((0, 1, 2)))
    pointers = [{leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(each))} for each in (model, pruned)]
    assert not pointers[0] & pointers[1]


@pytest.mark.parametrize("kept", [(), (2, 1), (0, 0), (0, 3), (-1, 2)])
def test_lists_that_name_no_layers_of_the_model_are_refused(model, kept):
    with pytest.raises(InputError, match=r"must be ascending numbers from 0 to 2, got \[.*\]; correct the list"):
        prune_model(model, Pruning(kept))
