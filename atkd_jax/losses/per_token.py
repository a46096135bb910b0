"""Arguments of the losses on sequences: one number per token, checked, in one type, and dead where nothing counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation


def counted_numbers(function: str, mask, **arrays) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the mask and the arrays in float32, or float64 where one of them is, 0 where a token does not count.

    Taken out before any arithmetic, a NaN at such a token reaches neither a value nor a gradient.

    Raises:
      TypeError: an array is not of floating type, or the mask not boolean.
      ValueError: an array has another shape than the mask, or there is no axis of tokens.
    """
    mask = validation.boolean(function, "mask", mask, jnp.shape(mask))
    if mask.ndim == 0:
        raise ValueError(f"{function}: mask must have shape [..., tokens], got (); keep the axis of tokens")
    numbers = numbers_of_one_type(function, **arrays)
    for name, array in zip(arrays, numbers, strict=True):
        if array.shape != mask.shape:
            raise ValueError(
                f"{function}: {name} must have one number for every token of the mask, shape {mask.shape}, got "
                f"{array.shape}; slice both alike"
            )
    return mask, [jnp.where(mask, array, 0) for array in numbers]


def numbers_of_one_type(function: str, **arrays) -> list[jax.Array]:
    """Returns the arrays in float32, or float64 where one of them is; they are of one shape.

    Raises:
      TypeError: an array is not of floating type.
      ValueError: the shapes differ.
    """
    converted = {name: jnp.asarray(array) for name, array in arrays.items()}
    first_name, first = next(iter(converted.items()))
    for name, array in converted.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{function}: {name} must be of floating type, got {array.dtype}; convert it")
        if array.shape != first.shape:
            raise ValueError(
                f"{function}: {first_name} and {name} must have the same shape, got {first.shape} and {array.shape}; "
                "slice both alike"
            )
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in converted.values()) else jnp.float32
    return [array.astype(dtype) for array in converted.values()]
