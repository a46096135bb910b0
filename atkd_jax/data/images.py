"""Labelled images in memory: scikit-learn's digits, which need no network, or an image set of TFDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atkd_jax.data.tfds_examples import prepared_records, quietly
from atkd_jax.errors import InputError

_TEST_EVERY = 5


class LabelledImages(NamedTuple):
    """Images float32 `[examples, height, width, channels]` in 0..1, labels int32 `[examples]`, how many classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: int


def load_images(source: str, *, split: str, cache_dir: Path, report: Callable[[str], None] = print) -> LabelledImages:
    """Returns the images of a split.

    Args:
        source: `digits`, scikit-learn's 1,797 images of 8 x 8, every fifth of which is the split `test`; or the name
            of a TFDS set with `image` and `label`, such as `fashion_mnist` or `cifar100`.
        split: in TFDS's own terms; `train` or `test` of the digits.
        cache_dir: the folder for what TFDS prepares.
        report: is given one line when something was prepared.

    Raises:
        InputError: there is no such set or split, it holds other things than images of one shape, or scikit-learn is
            missing.
    """
    if source == "digits":
        return _digits(split)
    records, features = prepared_records(source, split=split, cache_dir=cache_dir, report=report)
    keys = set(features.keys()) if hasattr(features, "keys") else set()
    if not {"image", "label"} <= keys:
        raise InputError(
            f"The data set {source} has the keys {sorted(keys)}, but images need 'image' and 'label': name another."
        )
    with quietly():  # TFDS would recommend another decoder.
        found = [(np.asarray(record["image"]), int(record["label"])) for record in records]
    shapes = sorted({image.shape for image, _ in found})
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise InputError(
            f"The images of {source}[{split}] must have one shape [height, width, channels], but {len(shapes)} came, "
            f"{shapes[0]} among them: name a set whose images are alike."
        )
    images = np.stack([image for image, _ in found]).astype(np.float32) / 255
    labels = np.array([label for _, label in found], np.int32)
    return LabelledImages(images, labels, int(features["label"].num_classes))


def _digits(split: str) -> LabelledImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "images.source=digits needs scikit-learn: pip install 'atkd-jax[neighbours]', or name a TFDS set."
        ) from None
    found: Any = load_digits()
    is_test = np.arange(len(found.target)) % _TEST_EVERY == 0
    if split not in ("train", "test"):
        raise InputError(f"digits has the splits 'train' and 'test', but {split!r} was asked for.")
    chosen = is_test if split == "test" else ~is_test
    images = found.images[chosen, ..., None].astype(np.float32) / 16
    return LabelledImages(images, found.target[chosen].astype(np.int32), 10)
