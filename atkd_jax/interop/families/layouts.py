"""How a weight in a checkpoint lies beside our parameter: a pair of functions, one for each direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Two pure functions of arrays, each the other's inverse.

    Attributes:
        to_param: (tensor of the checkpoint, shape of the parameter without the layer axis) -> the parameter.
        to_tensor: (parameter of one layer, shape of the tensor) -> the tensor.
    """

    to_param: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    to_tensor: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _rows_to_columns(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return tensor.T.reshape(shape)


def _columns_to_rows(param: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    outputs, inputs = shape
    if prod(param.shape) != outputs * inputs:
        raise ValueError(f"A parameter of shape {param.shape} does not make a tensor of shape {shape}.")
    return param.reshape(inputs, outputs).T


# PyTorch's Linear keeps [outputs, inputs]; our kernels are [inputs..., outputs...], and heads have their own axis.
LINEAR = Layout(_rows_to_columns, _columns_to_rows)
# Embeddings and norms.
PLAIN = Layout(lambda tensor, shape: tensor.reshape(shape), lambda param, shape: param.reshape(shape))
