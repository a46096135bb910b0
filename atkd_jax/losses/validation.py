"""The questions that every loss asks of its arguments, so that a mistake is a sentence and not a wrong number."""

from __future__ import annotations

from numbers import Integral, Real

import jax
import jax.numpy as jnp

VOCABULARY_ADVICE = "cut both heads to the tokenizer's size before the loss"


def floating(function: str, **arrays) -> list[jax.Array]:
    """Returns the arrays as JAX arrays, all of one shape `[..., vocab]` and of floating type.

    Raises:
      TypeError: an array is not of floating type.
      ValueError: an array has no vocabulary axis, an empty one, or another shape than the first.
    """
    converted = {name: jnp.asarray(array) for name, array in arrays.items()}
    first_name, first = next(iter(converted.items()))
    for name, array in converted.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{function}: {name} must be of floating type, got {array.dtype}; pass logits, not token ids"
            )
        if array.ndim == 0 or array.shape[-1] == 0:
            raise ValueError(
                f"{function}: {name} must have shape [..., vocab], got {array.shape}; keep the vocabulary axis"
            )
        if array.shape != first.shape:
            raise ValueError(
                f"{function}: {first_name} and {name} must have the same shape [..., vocab], got {first.shape} and "
                f"{array.shape}; {VOCABULARY_ADVICE}"
            )
    return list(converted.values())


def integers(function: str, name: str, array, shape: tuple[int, ...]) -> jax.Array:
    """Returns token ids as a JAX array of integer type and of the given shape.

    Raises:
      TypeError: the array is not of integer type.
      ValueError: it has another shape.
    """
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{function}: {name} must be of integer type, got {array.dtype}; pass token ids")
    if array.shape != shape:
        raise ValueError(
            f"{function}: {name} must have one token id for every position, shape {shape}, got {array.shape}; "
            "logits at t are paired with the token at t + 1, so slice both by one before the loss"
        )
    return array


def boolean(function: str, name: str, array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a mask as a JAX array of boolean type and of the given shape.

    Raises:
      TypeError: the array is not of boolean type.
      ValueError: it has another shape.
    """
    array = jnp.asarray(array)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{function}: {name} must be of boolean type, got {array.dtype}; write {name}.astype(bool)")
    if array.shape != shape:
        raise ValueError(
            f"{function}: {name} must have one value for every position, shape {shape}, got {array.shape}; "
            "a mask belongs to the targets, so slice it as they are sliced"
        )
    return array


def fraction(function: str, name: str, value) -> float:
    """Returns a number in [0, 1] as a Python float; it has to be known when the function is traced.

    Raises:
      TypeError: it is no Python or NumPy number.
      ValueError: it is out of range.
    """
    if not isinstance(value, Real):
        raise TypeError(
            f"{function}: {name} must be a Python number, got {type(value).__name__}; it decides which program is "
            "compiled, so pass it as a static argument"
        )
    value = float(value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{function}: {name} must be between 0 and 1, got {value}; choose a share of 1")
    return value


def weight(function: str, name: str, value, *, largest: float | None = None):
    """Returns the value; one that is known already has to be finite, not negative, and at most `largest`.

    A traced scalar passes, so that a weight may follow a schedule inside a compiled step.

    Raises:
      ValueError: the number is out of range.
    """
    if isinstance(value, Real):
        value = float(value)
        if not 0.0 <= value < float("inf") or (largest is not None and value > largest):
            rule = "not be negative" if largest is None else f"be between 0 and {largest:g}"
            raise ValueError(f"{function}: {name} must {rule}, got {value}; choose another weight")
    return value


def weights(function: str, name: str, array, shape: tuple[int, ...]) -> None:
    """Raises an error unless there is one weight of floating type for every position.

    Raises:
      TypeError: the weights are not of floating type.
      ValueError: they have another shape.
    """
    if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
        raise TypeError(
            f"{function}: the weights on {name} must be of floating type, got {jnp.result_type(array)}; convert them"
        )
    if jnp.shape(array) != shape:
        raise ValueError(
            f"{function}: the weights on {name} must have one number for every position, shape {shape}, got "
            f"{jnp.shape(array)}; broadcast them"
        )


def needed(function: str, divergence: str, name: str, array: jax.Array | None) -> jax.Array:
    """Returns the array, which a divergence cannot do without.

    Raises:
      TypeError: it is None.
    """
    if array is None:
        raise TypeError(f"{function}: {divergence} needs {name}, got None; pass it")
    return array


def choice(function: str, name: str, value, allowed: tuple[str, ...]) -> str:
    """Returns the value, which has to be one of the allowed ones.

    Raises:
      ValueError: it is another one.
    """
    if value not in allowed:
        listed = " or ".join(repr(option) for option in allowed)
        raise ValueError(f"{function}: {name} must be {listed}, got {value!r}; choose one of them")
    return value


def count(function: str, name: str, value, largest: int | None = None) -> int:
    """Returns a number of things, which has to be a positive integer and at most `largest`.

    Raises:
      TypeError: it is no integer.
      ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{function}: {name} must be a Python integer, got {type(value).__name__}; pass a count")
    number = int(value)
    if number < 1 or (largest is not None and number > largest):
        rule = "at least 1" if largest is None else f"between 1 and {largest}, the columns that there are"
        raise ValueError(f"{function}: {name} must be {rule}, got {value}; choose another number")
    return number


def softcap(function: str, value) -> float | None:
    """Returns the cap of soft-capped logits as a Python float, or None.

    Raises:
      ValueError: it is no positive number.
    """
    if value is None:
        return None
    if not isinstance(value, Real) or not 0.0 < float(value) < float("inf"):
        raise ValueError(f"{function}: a softcap must be a positive number or None, got {value}; None caps nothing")
    return float(value)


def model(function: str, name: str, hidden, head, bias, leading: tuple[int, ...]):
    """Returns a model's hidden states, head and bias as JAX arrays of floating type whose shapes fit.

    Raises:
      TypeError: an array is not of floating type.
      ValueError: the shapes do not fit.
    """
    hidden, head = jnp.asarray(hidden), jnp.asarray(head)
    bias = None if bias is None else jnp.asarray(bias)
    for label, array in ((f"{name}_hidden", hidden), (f"{name}_head", head), (f"{name}_bias", bias)):
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{function}: {label} must be of floating type, got {array.dtype}; pass activations")
    if head.ndim != 2 or hidden.ndim == 0 or hidden.shape[-1] != head.shape[0]:
        raise ValueError(
            f"{function}: {name}_hidden [..., width] and {name}_head [width, vocab] must have the same width, got "
            f"{hidden.shape} and {head.shape}; a tied embedding [vocab, width] has to be transposed"
        )
    if hidden.shape[:-1] != leading:
        raise ValueError(
            f"{function}: student_hidden and {name}_hidden must have the same positions, got {leading} and "
            f"{hidden.shape[:-1]}; only the width may differ"
        )
    if bias is not None and bias.shape != head.shape[1:]:
        raise ValueError(
            f"{function}: {name}_bias must have one number for each column of {name}_head, shape {head.shape[1:]}, "
            f"got {bias.shape}; pad it as the head is padded"
        )
    return hidden, head, bias


def scaled(function: str, temperature, *logits: jax.Array) -> list[jax.Array]:
    """Returns logits / temperature in one type: float32, or float64 where an input has it.

    Raises:
      ValueError: the temperature is a number that is not positive and finite.
    """
    if isinstance(temperature, Real) and not 0.0 < float(temperature) < float("inf"):
        raise ValueError(
            f"{function}: temperature must be positive and finite, got {temperature}; 1.0 leaves the logits as they are"
        )
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in logits) else jnp.float32
    converted = [array.astype(dtype) for array in logits]
    if isinstance(temperature, Real) and temperature == 1:
        return converted
    inverse = jnp.asarray(1.0 / temperature, dtype)
    return [array * inverse for array in converted]
