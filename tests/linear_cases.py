"""Small inputs of the linear losses, and what is compared of them."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np


def random_case(seed=0, shape=(2, 5), widths=(4, 6), vocabulary=11, bias=False):
    """Returns the arrays by the names of the arguments."""
    rng = np.random.default_rng(seed)
    case = {"targets": rng.integers(0, vocabulary, shape).astype(np.int32), "mask": rng.uniform(size=shape) < 0.7}
    for name, width in zip(("student", "teacher"), widths, strict=True):
        case[f"{name}_hidden"] = rng.normal(size=(*shape, width)).astype(np.float32)
        case[f"{name}_head"] = rng.normal(size=(width, vocabulary)).astype(np.float32)
        if bias:
            case[f"{name}_bias"] = rng.normal(size=vocabulary).astype(np.float32)
    return case


def logits_of(case, name, *, softcap=None, vocab_size=None):
    logits = case[f"{name}_hidden"] @ case[f"{name}_head"]
    if f"{name}_bias" in case:
        logits = logits + jnp.broadcast_to(case[f"{name}_bias"], logits.shape)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return logits[..., :vocab_size]


def differentiated(case):
    return {name: array for name, array in case.items() if name.startswith("student")}


@lru_cache(maxsize=32)
def value_and_gradients_of(function):
    """Returns the compiled function of (what is differentiated, the rest); the same one for the same function."""
    return jax.jit(jax.value_and_grad(lambda student, rest: function(**student, **rest)))


def value_and_gradients(function, case):
    """Returns the value and the gradients by the student's hidden states, head and bias."""
    rest = {name: array for name, array in case.items() if not name.startswith("student")}
    return value_and_gradients_of(function)(differentiated(case), rest)


def assert_same(mine, theirs, rtol=2e-5):
    np.testing.assert_allclose(mine[0], theirs[0], rtol=rtol)
    for name in theirs[1]:
        scale = np.abs(theirs[1][name]).max()
        np.testing.assert_allclose(mine[1][name], theirs[1][name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)
