import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.image_classification import mnist

from atkd_jax.data import load_images, tfds_images
from atkd_jax.errors import InputError


class TinyStripes(tfds.core.GeneratorBasedBuilder):
    """Stripes of random colours, whose direction is the class: a builder like any other."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 3))
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=2)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"image": stripes(number), "label": number % 2}


def stripes(number):
    """The image of an example, uint8 `[8, 8, 3]`."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2] = np.random.default_rng(number).integers(100, 256, 3)
    return image if number % 2 else image.swapaxes(0, 1)


def test_a_tfds_set_of_images_is_prepared_and_read_without_tensorflow(tmp_path, capfd):
    lines = []
    found = load_images("tiny_stripes", split="train", cache_dir=tmp_path, report=lines.append)
    assert lines[0].startswith("tiny_stripes: prepared 50 examples")
    assert (found.images.shape, found.images.dtype, found.classes) == ((40, 8, 8, 3), np.float32, 2)
    kept = {(image.tobytes(), int(label)) for image, label in zip(found.images, found.labels, strict=True)}
    assert kept == {((stripes(n).astype(np.float32) / 255).tobytes(), n % 2) for n in range(40)}
    assert len(load_images("tiny_stripes", split="test[:50%]", cache_dir=tmp_path).labels) == 5
    assert capfd.readouterr() == ("", "")


def test_fashion_mnist_is_prepared_from_its_own_files(tmp_path, monkeypatch):
    """TFDS's own builder reads files of the published form, which the test writes in place of the download."""
    rng, images, labels = np.random.default_rng(0), {}, {}
    for name, count in (("train", 12), ("t10k", 5)):
        images[name] = rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
        labels[name] = rng.integers(0, 10, count).astype(np.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(bytes(16) + images[name].tobytes())
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(bytes(8) + labels[name].tobytes())
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 12)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 5)
    files = lambda _, urls: {name: str(tmp_path / Path(url).name) for name, url in urls.items()}  # noqa: E731
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", files)
    found = load_images("fashion_mnist", split="test", cache_dir=tmp_path / "cache", report=lambda _: None)
    assert found.classes == 10
    order = [int(np.flatnonzero((images["t10k"] == image * 255).all((1, 2, 3)))[0]) for image in found.images]
    assert sorted(order) == [*range(5)]
    np.testing.assert_array_equal(found.labels, labels["t10k"][order])


def test_cifar_100_is_prepared_from_its_own_files(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name, count in (("coarse", 20), ("fine", 100)):
        (folder / f"{name}_label_names.txt").write_text("".join(f"{name} {n}\n" for n in range(count)))
    rng = np.random.default_rng(0)
    for name, count in (("train", 9), ("test", 4)):
        coarse, fine, pixels = (
            rng.integers(0, 20, (count, 1)),
            rng.integers(0, 100, (count, 1)),
            np.full((count, 3072), 7),
        )
        (folder / f"{name}.bin").write_bytes(np.hstack([coarse, fine, pixels]).astype(np.uint8).tobytes())
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda *_: str(tmp_path))
    found = load_images("cifar100", split="train", cache_dir=tmp_path / "cache", report=lambda _: None)
    assert (found.images.shape, found.classes) == ((9, 32, 32, 3), 100)
    np.testing.assert_allclose(found.images, 7 / 255, rtol=1e-6)


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"needs Pillow: pip install 'atkd-jax\[neighbours\]'"):
        tfds_images._encoded(None, np.zeros((1, 1, 1), np.uint8))
