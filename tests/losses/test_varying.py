import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from atkd_jax.losses.varying import all_varying, gathered, own_part, same_everywhere, varying_axes


def test_nothing_is_marked_outside_of_a_mapped_function():
    tree = {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}
    marked = all_varying(tree)
    assert all(one is other for one, other in zip(jax.tree.leaves(marked), jax.tree.leaves(tree), strict=True))
    assert gathered(tree, ()) is tree
    assert own_part(tree, (3,), ()) is tree
    assert same_everywhere(tree, ()) is tree


def test_gathering_and_taking_the_own_part_are_inverse_over_two_axes():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = PartitionSpec(("a", "b"))

    def local(array):
        everything = gathered(array, ("a", "b"))
        assert varying_axes(array) == {"a", "b"}
        return own_part(everything, array.shape, ("a", "b")), same_everywhere(everything, ("a", "b"))

    array = jnp.arange(48.0).reshape(16, 3)
    own, everything = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=(rows, PartitionSpec()))(array)
    np.testing.assert_array_equal(own, array)
    np.testing.assert_array_equal(everything, array.reshape(-1))
