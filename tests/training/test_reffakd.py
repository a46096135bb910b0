import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from rich.console import Console

from atkd_jax.commands import evaluate
from atkd_jax.commands.verbs import EvaluateOptions
from atkd_jax.config import Config
from atkd_jax.sharding import make_mesh
from atkd_jax.training import reffakd
from atkd_jax.training.run import train


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Several are shown by test_labelled_run.py to be the same, and cost more where they are one CPU's."""
    monkeypatch.setattr(reffakd, "labelled_mesh", lambda config: make_mesh(devices=jax.devices()[:1]))


class LocalStripes(tfds.core.GeneratorBasedBuilder):
    """Two kinds of stripes that look alike and one that does not: classes 0 and 1 are shifted by a pixel."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 1))
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=3)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(90, seed=0), "test": self._generate_examples(30, seed=1)}

    def _generate_examples(self, count, *, seed):
        rng = np.random.default_rng(seed)
        for number in range(count):
            image, label = 0.1 * rng.normal(size=(8, 8, 1)), number % 3
            image[(slice(None), slice(label, label + 4)) if label < 2 else slice(6, None)] += 1.0
            yield number, {"image": np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), "label": label}


def config(tmp_path, **images):
    tree = {"run_dir": tmp_path / "run", "cache_dir": tmp_path / "cache", "training": {"steps": 30, "batch_size": 16}}
    tree |= {"optimizer": {"learning_rate": 2e-2, "warmup_steps": 2}, "checkpoint": {"every_steps": 20}}
    return Config.model_validate(tree | {"images": {"source": "local_stripes", "autoencoder_steps": 30} | images})


def test_the_ordinary_train_runs_it_and_what_looks_alike_has_softer_labels(tmp_path):
    settings, out = config(tmp_path), io.StringIO()
    train(settings, console=Console(file=out, width=200))
    facts = json.loads((settings.run_dir / "accuracy.json").read_text())
    assert facts["accuracy"] > 0.9
    assert (facts["step"], facts["examples"]) == (30, 30)
    assert "Right on" in out.getvalue()
    assert (settings.run_dir / "autoencoder" / "metrics.jsonl").exists()
    # `evaluate` reads the student again, of a run that is there.
    (settings.run_dir / "accuracy.json").unlink()
    evaluate.run(EvaluateOptions(settings=settings))
    assert json.loads((settings.run_dir / "accuracy.json").read_text()) == facts
    # A second call restores the autoencoder and gives its labels anew.
    data = reffakd.load_images("local_stripes", split="train", cache_dir=settings.cache_dir)
    soft = np.asarray(reffakd.soft_labels_of(data, settings, console=Console(file=io.StringIO())))
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
    assert (soft.argmax(-1) == np.arange(3)).all()
    assert soft[0, 1] > soft[0, 2]
    assert jnp.isfinite(soft).all()


def test_without_weight_there_is_no_autoencoder(tmp_path):
    found = reffakd.train_on_images(config(tmp_path, weight=0.0), console=Console(file=io.StringIO()))
    assert found.accuracy > 0.5
    assert not (tmp_path / "run" / "autoencoder").exists()
