import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.interop.families.layouts import HEAD_BY_HEAD, LINEAR, PLAIN, joined

SIZES = st.integers(1, 4)


@given(heads=SIZES, head_dim=SIZES, width=SIZES, split_outputs=st.booleans())
def test_linear_computes_what_pytorchs_linear_does(heads: int, head_dim: int, width: int, split_outputs: bool):
    inputs, outputs = ((width,), (heads, head_dim)) if split_outputs else ((heads, head_dim), (width,))
    random = np.random.default_rng(0)
    tensor = random.normal(size=(int(np.prod(outputs)), int(np.prod(inputs))))
    x = random.normal(size=(5, *inputs))
    kernel = LINEAR.to_params(tensor, [(*inputs, *outputs)])[0]
    ours = np.tensordot(x, kernel, axes=len(inputs)).reshape(5, -1)
    theirs = torch.nn.functional.linear(torch.from_numpy(x.reshape(5, -1)), torch.from_numpy(tensor)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_array_equal(LINEAR.to_tensor([kernel], tensor.shape), tensor)


def test_plain_keeps_order():
    array = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(PLAIN.to_tensor(PLAIN.to_params(array, [(2, 3)]), (2, 3)), array)


def test_a_parameter_that_does_not_fill_its_tensor_is_a_fault():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not make a tensor of shape \(2, 2\)"):
        LINEAR.to_tensor([np.zeros((2, 3))], (2, 2))


@pytest.mark.parametrize(("each", "axis"), [(LINEAR, 0), (PLAIN, 1)])
def test_joined_tensors_stand_one_after_the_other(each, axis):
    random = np.random.default_rng(0)
    parts = [random.normal(size=(5, heads, 2)) for heads in (4, 1, 1)]
    alone = [each.to_tensor([part], (part[0].size, 5) if axis == 0 else (5, part[0].size)) for part in parts]
    layout = joined(each, axis=axis)
    whole = layout.to_tensor(parts, (12, 5) if axis == 0 else (5, 12))
    np.testing.assert_array_equal(whole, np.concatenate(alone, axis=axis))
    for back, part in zip(layout.to_params(whole, [part.shape for part in parts]), parts, strict=True):
        np.testing.assert_array_equal(back, part)


@pytest.mark.parametrize("inputs", [(), (5,)])
def test_heads_hold_their_query_key_and_value_side_by_side(inputs):
    shapes = [(*inputs, 4, 2)] * 3
    tensor = np.random.default_rng(0).normal(size=(24, *inputs))
    params = HEAD_BY_HEAD.to_params(tensor, shapes)
    # The fourth row of the third head's key.
    np.testing.assert_array_equal(params[1][..., 2, 1], tensor[2 * 6 + 2 + 1])
    np.testing.assert_array_equal(HEAD_BY_HEAD.to_tensor(params, tensor.shape), tensor)
