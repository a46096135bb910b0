import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.sharding import (
    constrain,
    make_mesh,
    own_rows,
    parameter_sharding,
    parameter_shardings,
    rows_divisor,
    shard_batch,
    whole_row_sharding,
)


def test_axes_follow_the_table():
    mesh = make_mesh(fsdp=2, tensor=2)
    sharding = parameter_sharding(mesh, ("layers", "embed", "mlp"), (3, 8, 12))
    assert sharding.shard_shape((3, 8, 12)) == (3, 4, 6)


def test_an_axis_that_does_not_divide_stays_whole():
    sharding = parameter_sharding(make_mesh(tensor=2), ("embed", "kv_heads", "head_dim"), (8, 3, 4))
    assert sharding.shard_shape((8, 3, 4)) == (8, 3, 4)


def test_unknown_axis_and_wrong_number_of_names_are_errors():
    mesh = make_mesh()
    with pytest.raises(ValueError, match="unknown logical axis 'width'"):
        parameter_sharding(mesh, ("width",), (4,))
    with pytest.raises(ValueError, match="1 axis names"):
        parameter_sharding(mesh, ("embed",), (4, 4))


def test_trees_keep_their_structure():
    mesh = make_mesh(fsdp=4)
    tree = {"a": jnp.zeros((4, 2)), "b": {"c": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    shardings = parameter_shardings(mesh, {"a": ("embed", None), "b": {"c": (None,)}}, tree)
    assert shardings["a"].shard_shape((4, 2)) == (1, 2)
    assert shardings["b"]["c"].is_fully_replicated


def test_batches_are_split_over_rows_and_keep_their_values():
    mesh = make_mesh(fsdp=2, tensor=2)
    tokens = np.arange(8 * 3, dtype=np.int32).reshape(8, 3)
    sharded = shard_batch(mesh, {"tokens": tokens})["tokens"]
    assert rows_divisor(mesh) == 4
    assert sharded.addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(np.asarray(sharded), tokens)


def test_long_rows_are_split_over_sequence_as_well():
    mesh = make_mesh(fsdp=2, sequence=4)
    tokens = np.arange(2 * 8, dtype=np.int32).reshape(2, 8)
    sharded = shard_batch(mesh, {"tokens": tokens})["tokens"]
    assert sharded.addressable_shards[0].data.shape == (1, 2)
    np.testing.assert_array_equal(np.asarray(sharded), tokens)


def test_activations_follow_their_own_table():
    mesh = make_mesh(fsdp=2, sequence=2, tensor=2)
    x = jax.jit(lambda x: constrain(x, mesh, "rows", "length", "heads", "head_dim"))(jnp.ones((4, 6, 2, 3)))
    assert x.sharding.shard_shape(x.shape) == (2, 3, 1, 3)
    # Three rows do not divide, and stay whole.
    x = jax.jit(lambda x: constrain(x, mesh, "rows", "length", "width"))(jnp.ones((3, 6, 2)))
    assert x.sharding.shard_shape(x.shape) == (3, 3, 2)
    assert constrain(x, None, "rows", "length", "width") is x
    with pytest.raises(ValueError, match=r"axes must be as many as the dimensions of \(3, 6, 2\)"):
        constrain(x, mesh, "rows", "length")


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2}, {"sequence": 4}])
def test_rows_come_back_as_they_were_given(axes):
    mesh = make_mesh(**axes)
    tokens = np.arange(8 * 4, dtype=np.int32).reshape(8, 4)
    given = shard_batch(mesh, {"tokens": tokens})["tokens"]
    whole = jax.jit(lambda x: jnp.stack([x, -x], axis=-1), out_shardings=whole_row_sharding(mesh))(given)
    np.testing.assert_array_equal(own_rows(mesh, whole), np.stack([tokens, -tokens], axis=-1))
