"""How a tensor of a checkpoint lies beside our parameters: a pair of functions, one for each direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Two pure functions of arrays, each the other's inverse.

    Attributes:
        to_params: (tensor of the checkpoint, shapes of the parameters without the layer axis) -> the parameters.
        to_tensor: (parameters of one layer, shape of the tensor) -> the tensor.
    """

    to_params: Callable[[np.ndarray, Sequence[Shape]], tuple[np.ndarray, ...]]
    to_tensor: Callable[[Sequence[np.ndarray], Shape], np.ndarray]


def _rows_to_columns(tensor: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
    return (tensor.T.reshape(shapes[0]),)


def _columns_to_rows(params: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    outputs, inputs = shape
    if prod(params[0].shape) != outputs * inputs:
        raise ValueError(f"A parameter of shape {params[0].shape} does not make a tensor of shape {shape}.")
    return params[0].reshape(inputs, outputs).T


# PyTorch's Linear keeps [outputs, inputs]; our kernels are [inputs..., outputs...], and heads have their own axis.
LINEAR = Layout(_rows_to_columns, _columns_to_rows)
# Embeddings, norms, biases, and GPT-2's kernels, which are [inputs, outputs].
PLAIN = Layout(lambda tensor, shapes: (tensor.reshape(shapes[0]),), lambda params, shape: params[0].reshape(shape))


def joined(each: Layout, *, axis: int) -> Layout:
    """Return the layout of a tensor in which several, each laid out as `each` says, stand one after the other."""

    def to_params(tensor: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
        others = tensor.size // tensor.shape[axis]
        ends = np.cumsum([prod(shape) // others for shape in shapes])
        parts = np.split(tensor, ends[:-1], axis=axis)
        return tuple(each.to_params(part, (shape,))[0] for part, shape in zip(parts, shapes, strict=True))

    def to_tensor(params: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        others = prod(shape) // shape[axis]
        parts = []
        for param in params:
            own = list(shape)
            own[axis] = param.size // others
            parts.append(each.to_tensor((param,), tuple(own)))
        return np.concatenate(parts, axis=axis)

    return Layout(to_params, to_tensor)


def _split_heads(tensor: np.ndarray, shapes: Sequence[Shape]) -> tuple[np.ndarray, ...]:
    heads, head_dim = shapes[0][-2:]
    parts = tensor.reshape(heads, len(shapes), head_dim, -1).swapaxes(0, 1)
    # [heads, head_dim, inputs] to [inputs, heads, head_dim]; a bias has a single input, which its shape leaves out.
    return tuple(np.moveaxis(part, -1, 0).reshape(shape) for part, shape in zip(parts, shapes, strict=True))


def _join_heads(params: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    heads, head_dim = params[0].shape[-2:]
    parts = [np.moveaxis(param.reshape(-1, heads, head_dim), 0, -1) for param in params]
    return np.stack(parts, axis=1).reshape(shape)


# GPT-NeoX's queries, keys and values: head by head, the three of a head one after the other.
HEAD_BY_HEAD = Layout(_split_heads, _join_heads)
