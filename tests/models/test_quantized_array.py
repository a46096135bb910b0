import builtins

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atkd_jax.errors import InputError
from atkd_jax.models.quantized_array import dequantized, quantized

pytest.importorskip("qwix")
# qwix lets the largest number be half a step beyond the last one.
LARGEST = {"int8": (127, 128), "int4": (7, 8)}


@settings(max_examples=15)
@given(
    st.sampled_from(["int8", "int4"]),
    st.sampled_from([((3, 128, 4, 6), (1,)), ((2, 3, 8, 10), (1, 2)), ((5, 7), (1,)), ((64, 3), (0,))]),
    st.integers(0, 1000),
)
def test_every_number_is_within_half_a_step_of_what_it_was(bits, case, seed):
    shape, summed = case
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    integers, scale = quantized(jnp.asarray(array), bits, summed_axes=summed)
    back = np.asarray(dequantized(integers, scale))
    assert back.shape == shape
    steps = np.asarray(scale)
    for axis, (size, count) in enumerate(zip(shape, steps.shape, strict=True)):
        steps = np.repeat(steps, size // count, axis=axis)
    assert np.all(np.abs(back - array) <= 0.501 * steps)
    assert np.abs(np.round(back / steps)).max() in LARGEST[bits]  # the largest of each group uses all of the range


@pytest.mark.parametrize("odd", [False, True])
def test_packing_in_pairs_loses_nothing(odd):
    qwix = pytest.importorskip("qwix")
    array = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64, 5 if odd else 6)), jnp.float32)
    expected = qwix.dequantize(qwix.quantize(array, "int4", channelwise_axes=(0, 2), tiled_axes={1: 64}))
    integers, scale = quantized(array, "int4", summed_axes=(1,))
    assert integers.dtype == (jnp.int8 if odd else jnp.uint8)
    np.testing.assert_array_equal(dequantized(integers, scale), expected)


def test_four_bits_take_half_a_byte():
    array = jnp.ones((2, 64, 10), jnp.bfloat16)
    integers, scale = quantized(array, "int4", summed_axes=(1,))
    assert (integers.nbytes, integers.dtype, scale.dtype) == (array.nbytes // 4, jnp.uint8, jnp.bfloat16)
    assert quantized(array, "int8", summed_axes=(1,))[0].nbytes == array.nbytes // 2


def test_without_qwix_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **named):
        if name == "qwix":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"qwix, but that is not installed; run `pip install atkd-jax\[quantize\]`"):
        quantized(jnp.ones((2, 2)), "int8", summed_axes=(0,))
