"""Everything that a training step reads and returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """One run at one moment; a pytree.

    Attributes:
      step: int32, steps taken, those that were skipped included.
      params: The student's weights, float32.
      optimizer_state: Of the optax transformation.
      skipped_steps: int32, steps whose loss or gradient was not finite, in all.
      skipped_in_a_row: int32, how many of the last steps were skipped.
      random_key: uint32 key data, from which each step's random keys are derived.
    """

    step: jax.Array
    params: Any
    optimizer_state: Any
    skipped_steps: jax.Array
    skipped_in_a_row: jax.Array
    random_key: jax.Array


def initial_state(params: Any, *, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Returns the state before the first step."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # Three buffers, since each is donated.
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(step, params, optimizer.init(params), skipped, in_a_row, key)
