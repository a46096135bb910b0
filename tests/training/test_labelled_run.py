import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.training.labelled_run import train_labelled
from atkd_jax.training.metrics import read_metrics


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5], np.float32))}


def trained(arrays, run_dir, *, steps=6, seed=0):
    tree = {"run_dir": run_dir, "seed": seed, "checkpoint": {"every_steps": 4}}
    tree |= {"training": {"steps": steps, "batch_size": 8}, "optimizer": {"learning_rate": 0.3, "warmup_steps": 0}}
    model, out = nnx.Linear(3, 1, rngs=nnx.Rngs(params=0)), io.StringIO()

    def loss_of(model, batch):
        error = jnp.square(model(batch["x"])[:, 0] - batch["y"])
        return error, {"error": error}

    console = Console(file=out, width=200)
    outcome = train_labelled(model, arrays, loss_of, config=Config.model_validate(tree), console=console)
    return outcome.state, model, out.getvalue()


def test_a_run_in_two_parts_is_the_run_in_one(arrays, tmp_path):
    whole, model, _ = trained(arrays, tmp_path / "whole")
    trained(arrays, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "6")
    again, other, said = trained(arrays, tmp_path / "parts")
    assert "Going on from step 4" in said
    for ours, theirs in zip(jax.tree.leaves((whole, model)), jax.tree.leaves((again, other)), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    lines = read_metrics(tmp_path / "parts")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["error"])
    assert lines[-1]["data/epoch"] == pytest.approx(6 * 8 / 20)


def test_another_config_in_the_same_directory_is_refused(arrays, tmp_path):
    trained(arrays, tmp_path, steps=1)
    with pytest.raises(InputError, match="seed=0 then and 3 now"):
        trained(arrays, tmp_path, steps=1, seed=3)
