import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import LabelledImages
from atkd_jax.training import reffakd
from atkd_jax.training.run import train


@pytest.fixture
def stripes(monkeypatch):
    """Two kinds of stripes that look alike and one that does not: classes 0 and 1 are shifted by a pixel."""
    rng = np.random.default_rng(0)

    def load(source, *, split, cache_dir, report):
        labels = np.tile(np.arange(3), 30 if split == "train" else 10).astype(np.int32)
        images = np.zeros((len(labels), 8, 8, 1), np.float32)
        for number, label in enumerate(labels):
            if label < 2:
                images[number, :, label : label + 4] = 1.0
            else:
                images[number, 6:] = 1.0
        return LabelledImages(np.clip(images + 0.1 * rng.normal(size=images.shape), 0, 1).astype(np.float32), labels, 3)

    monkeypatch.setattr(reffakd, "load_images", load)


def config(tmp_path, **images):
    tree = {"run_dir": tmp_path / "run", "training": {"steps": 30, "batch_size": 16}}
    tree |= {"optimizer": {"learning_rate": 2e-2, "warmup_steps": 2}, "checkpoint": {"every_steps": 20}}
    return Config.model_validate(tree | {"images": {"source": "stripes", "autoencoder_steps": 30} | images})


def test_the_ordinary_train_runs_it_and_what_looks_alike_has_softer_labels(stripes, tmp_path):
    settings, out = config(tmp_path), io.StringIO()
    train(settings, console=Console(file=out, width=200))
    facts = json.loads((settings.run_dir / "accuracy.json").read_text())
    assert facts["accuracy"] > 0.9
    assert (facts["step"], facts["examples"]) == (30, 30)
    assert "Right on" in out.getvalue()
    assert (settings.run_dir / "autoencoder" / "metrics.jsonl").exists()
    # A second call restores the autoencoder and gives its labels anew.
    data = reffakd.load_images("stripes", split="train", cache_dir=tmp_path, report=print)
    soft = np.asarray(reffakd.soft_labels_of(data, settings, console=Console(file=io.StringIO())))
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
    assert (soft.argmax(-1) == np.arange(3)).all()
    assert soft[0, 1] > soft[0, 2]
    assert jnp.isfinite(soft).all()


def test_without_weight_there_is_no_autoencoder(stripes, tmp_path):
    found = reffakd.train_on_images(config(tmp_path, weight=0.0), console=Console(file=io.StringIO()))
    assert found.accuracy > 0.5
    assert not (tmp_path / "run" / "autoencoder").exists()
