import numpy as np
import pytest
from sklearn.datasets import load_digits

from atkd_jax.data import images, load_images
from atkd_jax.errors import InputError


def test_the_digits_are_divided_into_two_splits(tmp_path):
    train, test = (load_images("digits", split=split, cache_dir=tmp_path) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert (train.images.min(), train.images.max(), train.classes) == (0, 1, 10)
    everything = load_digits()
    np.testing.assert_array_equal(test.images[1, ..., 0] * 16, everything.images[5])
    assert test.labels[1] == everything.target[5]
    with pytest.raises(InputError, match="has the splits 'train' and 'test', but 'validation'"):
        load_images("digits", split="validation", cache_dir=tmp_path)


class _Features(dict):
    pass


def test_an_image_set_of_tfds_is_read_by_its_keys(tmp_path, monkeypatch):
    """As a data source of TFDS gives it: records of uint8 images, and features that know the number of classes."""
    label = type("Label", (), {"num_classes": 7})()
    records = [{"image": np.full((4, 4, 3), 255, np.uint8), "label": 3}, {"image": np.zeros((4, 4, 3)), "label": 6}]
    monkeypatch.setattr(images, "prepared_records", lambda *_, **__: (records, _Features(image=None, label=label)))
    found = load_images("some_images", split="train", cache_dir=tmp_path)
    assert (found.images.shape, found.images.max(), found.classes) == ((2, 4, 4, 3), 1, 7)
    assert found.labels.tolist() == [3, 6]
    monkeypatch.setattr(images, "prepared_records", lambda *_, **__: (records, _Features(text=None)))
    with pytest.raises(InputError, match="images need 'image' and 'label'"):
        load_images("some_text", split="train", cache_dir=tmp_path)
