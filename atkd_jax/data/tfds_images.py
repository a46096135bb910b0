"""Image sets of TFDS prepared where TensorFlow is not installed.

TFDS encodes images that come as arrays with TensorFlow, and its builders of MNIST's and CIFAR's kinds open their files
with it, though nothing of that needs it. While such a set is prepared, Pillow and Python's own `open` stand there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from atkd_jax.errors import InputError


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Within it builders write images without TensorFlow; where that is installed nothing changes."""
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.image_classification import cifar, mnist

    files = SimpleNamespace(io=SimpleNamespace(gfile=SimpleNamespace(GFile=open)))
    with contextlib.ExitStack() as changed:
        changed.enter_context(mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encoded))
        for builders in (mnist, cifar):
            changed.enter_context(mock.patch.object(builders, "tf", files))
        yield


def _encoded(encoder: Any, image: np.ndarray) -> bytes:
    """Returns an array `[height, width, channels]` in the encoder's format, as TFDS's own method does."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "Writing a TFDS set of images needs Pillow: pip install 'atkd-jax[neighbours]', or install TensorFlow."
        ) from None
    from tensorflow_datasets.core.features import image_feature

    image_feature._validate_np_array(image, shape=encoder.shape, dtype=encoder.np_dtype)
    file = io.BytesIO()
    # Pillow has images of one channel without an axis for it.
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format=encoder.encoding_format)
    return file.getvalue()
