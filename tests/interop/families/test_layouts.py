import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.interop.families.layouts import LINEAR, PLAIN

SIZES = st.integers(1, 4)


@given(heads=SIZES, head_dim=SIZES, width=SIZES, split_outputs=st.booleans())
def test_linear_computes_what_pytorchs_linear_does(heads: int, head_dim: int, width: int, split_outputs: bool):
    inputs, outputs = ((width,), (heads, head_dim)) if split_outputs else ((heads, head_dim), (width,))
    random = np.random.default_rng(0)
    tensor = random.normal(size=(int(np.prod(outputs)), int(np.prod(inputs))))
    x = random.normal(size=(5, *inputs))
    kernel = LINEAR.to_param(tensor, (*inputs, *outputs))
    ours = np.tensordot(x, kernel, axes=len(inputs)).reshape(5, -1)
    theirs = torch.nn.functional.linear(torch.from_numpy(x.reshape(5, -1)), torch.from_numpy(tensor)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_array_equal(LINEAR.to_tensor(kernel, tensor.shape), tensor)


def test_plain_keeps_order():
    array = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(PLAIN.to_tensor(PLAIN.to_param(array, (2, 3)), (2, 3)), array)


def test_a_parameter_that_does_not_fill_its_tensor_is_a_fault():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not make a tensor of shape \(2, 2\)"):
        LINEAR.to_tensor(np.zeros((2, 3)), (2, 2))
