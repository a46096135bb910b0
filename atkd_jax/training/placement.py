"""Where a run's state lies: parameters by the table, the optimizer's moments beside them, the rest everywhere."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from atkd_jax.models import axes_of, logical_axes
from atkd_jax.sharding import parameter_sharding, parameter_shardings, replicated, spread
from atkd_jax.training.state import TrainState, initial_state


def placing_on(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Returns a function that says where one parameter, by its path and shape, lives by the table."""
    return lambda path, shape: parameter_sharding(mesh, axes_of(path), shape)


def place_state(
    params: Any,
    *,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    seed: int,
    axes: Callable[[Any], Any] = logical_axes,
) -> TrainState:
    """Returns the state before the first step, on its devices; `axes` names the axes of the parameters."""
    shardings = state_shardings(params, mesh=mesh, optimizer=optimizer, axes=axes)
    init = jax.jit(lambda params: initial_state(params, optimizer=optimizer, seed=seed), out_shardings=shardings)
    return init(spread(params, shardings.params))


def state_shardings(
    params: Any,
    *,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    axes: Callable[[Any], Any] = logical_axes,
) -> TrainState:
    """Returns the tree of shardings of a state with these parameters, which may be `jax.ShapeDtypeStruct`."""
    whole = replicated(mesh)
    of_params = parameter_shardings(mesh, axes(params), params)
    abstract = jax.eval_shape(lambda params: initial_state(params, optimizer=optimizer, seed=0), params)
    of_optimizer = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract.optimizer_state,
        of_params,
        transform_non_params=lambda _: whole,
    )
    everywhere = jax.tree.map(lambda _: whole, abstract)
    return everywhere._replace(params=of_params, optimizer_state=of_optimizer)


def bytes_on_device(arrays: Any, shardings: Any) -> float:
    """Returns the bytes on one device of a tree of arrays or `jax.ShapeDtypeStruct`, from a tree of shardings."""
    leaves, places = jax.tree.leaves(arrays), jax.tree.leaves(shardings)
    shards = ((place.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf, place in zip(leaves, places, strict=True))
    return float(sum(math.prod(shape) * size for shape, size in shards))
